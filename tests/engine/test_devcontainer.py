"""devcontainer.json with a real engine: what runs in its image and its bottle, ports, variables, folders."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.engine.engine import BuildRequest, Engine
from bot_bottle.engine.setup import run_setup
from bot_bottle.errors import BuildError, EngineError
from bot_bottle.host.rundir import run_dir
from bot_bottle.workspace.lifecycle import Command, Setup
from tests.support.bottle import Bottle
from tests.support.engine_matrix import BASE, fresh_context
from tests.support.engines import OWNER, Docker, private_docker
from tests.support.repos import Repo, make_repo

IN_CLONE = [".devcontainer", ".dockerignore", ".git", "README", "sub"]
USERS = "RUN mkdir -p /home/agent /tmp && chown 1000:1000 /home/agent && chmod 1777 /tmp\n"


@pytest.fixture(scope="module")
def buildx(engine_copy: str) -> Iterator[Docker]:
    """An engine whose client has buildx."""
    with private_docker("docker-28-containerd", engine_copy) as engine:
        yield engine


@pytest.fixture
def bottle(buildx: Docker, cache_dir: Path) -> Iterator[Bottle]:
    one = Bottle(cache_dir, buildx.variables)
    before = images(buildx)
    yield one
    assert not one.leftovers
    assert images(buildx) == before


def images(docker: Docker) -> list[str]:
    """The names that images have for a build."""
    names = docker.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}").decode().split()
    return sorted(name for name in names if name.startswith("localhost/"))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repository with a Dockerfile in the folder of its devcontainer.json."""
    made = make_repo(tmp_path / "project")
    fresh_context(made.top / ".devcontainer")
    (made.top / ".devcontainer/Dockerfile").write_text(BASE + USERS)
    made.commit({"README": "readme\n", "sub/file": "in sub\n", ".dockerignore": "left-out\n"})
    return made


def write(repo: Repo, **document: Any) -> None:
    content = {"build": {"dockerfile": "Dockerfile"}, "remoteUser": "agent", **document}
    (repo.top / ".devcontainer/devcontainer.json").write_text(json.dumps(content))


def run(bottle: Bottle, repo: Repo, script: str, *options: str, **env: str) -> str:
    argv = ("run", "-q", "--backend=docker", "--workspace=clone", *options, "--", "sh", "-c", script)
    done = bottle(*argv, cwd=repo.top, env=env)
    assert done.code == 0, done
    return done.out


# --- what runs while the image is made


def test_files_that_lifecycle_commands_write_are_in_the_image(bottle: Bottle, repo: Repo) -> None:
    write(
        repo,
        containerEnv={"A": "it's $A", "B": "${localWorkspaceFolderBasename}"},
        onCreateCommand='echo "$(id -un) $PWD $HOME" > ~/who; cp README sub/file ~; echo x > made',
        postCreateCommand={
            "a": ["cp", "made", "/home/agent/made"],
            "b": 'echo "$A|$B" > ~/env; ls -A > ~/ls',
        },
    )
    (repo.top / "left-out").write_text("secret")
    out = run(bottle, repo, "cd; cat who README file made env ls; ls -A /workspace")
    assert out.splitlines()[:5] == [
        "agent /workspace /home/agent",
        "readme",
        "in sub",
        "x",
        "it's $A|project",
    ]
    assert out.splitlines()[5:] == [".devcontainer", ".dockerignore", "README", "made", "sub", *IN_CLONE]


@pytest.mark.slow
def test_lifecycle_commands_run_again_when_a_file_or_a_command_changes(bottle: Bottle, repo: Repo) -> None:
    write(repo, postCreateCommand="date +%s.%N > ~/made; sleep 0.01")
    first = bottle("pack", cwd=repo.top)
    repo.commit(message="no file is another")
    again = bottle("pack", cwd=repo.top)
    assert first.path == again.path
    assert "setup" in again.err
    (repo.top / "README").write_text("changed\n")
    changed = bottle("pack", cwd=repo.top)
    write(repo, postCreateCommand="date +%s.%N > ~/made")
    other = bottle("pack", cwd=repo.top)
    fresh = bottle("pack", "--no-cache", cwd=repo.top)
    assert len({done.path for done in (first, changed, other, fresh)}) == 4


@pytest.mark.slow
def test_lifecycle_commands_run_for_an_image_that_is_named(
    bottle: Bottle, buildx: Docker, repo: Repo
) -> None:
    name = "bot-bottle-test-devcontainer:named"
    buildx.build(repo.top / ".devcontainer", "--tag", name)
    try:
        (repo.top / ".devcontainer/devcontainer.json").write_text(
            json.dumps({"image": name, "postCreateCommand": "id -u > /made; cp README /"})
        )
        assert run(bottle, repo, "cat /made /README; id -u") == "0\nreadme\n0\n"
        first = bottle("pack", cwd=repo.top).path
        assert bottle("pack", cwd=repo.top).path == first
        assert bottle("pack", "--no-cache", cwd=repo.top).path != first
    finally:
        buildx.docker("rmi", name)


def test_a_lifecycle_command_that_fails_is_reported_in_its_own_words(bottle: Bottle, repo: Repo) -> None:
    write(repo, postCreateCommand="echo out; git status; echo no such thing >&2; exit 7")
    done = bottle("pack", cwd=repo.top)
    done.failed(104, "postCreateCommand of ", "failed with exit status 7", "no such thing", "without .git")
    assert "RUN --mount" not in done.err.partition("bottle: ")[2]
    write(repo, remoteUser="nobody-here", postCreateCommand="true")
    bottle("pack", cwd=repo.top).failed(104, "could not be run", "nobody-here")


@pytest.mark.slow
def test_values_of_this_machine_are_not_in_the_image(bottle: Bottle, buildx: Docker, repo: Repo) -> None:
    write(repo, remoteEnv={"T": "x${localEnv:MY_TOKEN}"}, postCreateCommand="echo ${#T} > ~/length")
    env = {"MY_TOKEN": "a-secret-value"}
    refused = bottle("pack", cwd=repo.top, env=env)
    refused.failed(120, "MY_TOKEN")
    out = run(bottle, repo, 'cat ~/length; echo "$T"', "--yes", **env)
    assert out == "15\nxa-secret-value\n"
    image = json.loads(bottle("pack", "--json", cwd=repo.top, env=env).out)["image_id"]
    history = buildx.docker("history", "--no-trunc", image) + buildx.docker("inspect", image)
    assert b"length" in history
    assert b"a-secret" not in history


@pytest.mark.one_store
@pytest.mark.others_slow
def test_lifecycle_commands_make_one_layer_with_each_engine(engine: Engine, tmp_path: Path) -> None:
    context = fresh_context(tmp_path / "context")
    (context / "Dockerfile").write_text(BASE + USERS + "USER agent\nWORKDIR /tmp\n")
    base = engine.build_image(BuildRequest(context), lambda _: None)
    engine.tag(base.id, f"bot-bottle-test-setup:{OWNER}")  # docker 26 removes it with its last name
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "file").write_text("one\n")

    def ran(command: Command, **changes: Any) -> str:
        setup = Setup({"postCreateCommand": command}, tmp_path / "devcontainer.json", project, **changes)
        with run_dir() as run:
            return run_setup(engine, base, setup, run, lambda _: None).id

    options: dict[str, Any] = {"folder": "/workspace", "env": {"V": "value"}, "private": frozenset({"V"})}
    copy = 'test ! -e .git && touch new && id -un > ~/who && cat file > ~/file && echo "$V" | wc -c > ~/size'
    if engine.builder == "classic":
        with pytest.raises(EngineError, match="classic builder cannot run lifecycle commands"):
            ran(copy, **options)
        return
    first = ran(copy, **options)
    config = engine.inspect(first)["Config"]
    assert (config["User"], config["WorkingDir"]) == ("agent", "/tmp")
    (project / ".git/index").write_text("git's own")
    assert ran(copy, **options) == first
    assert not (project / "new").exists()
    (project / "file").write_text("two\n")
    assert ran(copy, **options) != first
    as_root = ran("test $(id -u) = 0 && touch /made", **options, user="root")
    assert engine.inspect(as_root)["Config"]["User"] == "agent"
    with pytest.raises(BuildError, match=r"postCreateCommand of .* failed with exit status 3") as caught:
        ran("echo its words; exit 3", **options)
    assert caught.value.why.splitlines()[-1] == "its words"


def test_a_user_that_the_metadata_label_names_runs_the_commands(
    bottle: Bottle, buildx: Docker, repo: Repo
) -> None:
    """As images for devcontainers have it: the label names who works there, and USER is root."""
    label = json.dumps([{"id": "a-feature", "remoteUser": "nobody"}, {"remoteUser": "agent"}])
    text = (repo.top / ".devcontainer/Dockerfile").read_text()
    (repo.top / ".devcontainer/Dockerfile").write_text(f"{text}LABEL devcontainer.metadata='{label}'\n")
    write(repo, remoteUser=None, postCreateCommand="id -un > /tmp/who")
    assert run(bottle, repo, "cat /tmp/who; id -un") == "agent\nagent\n"
    assert json.loads(bottle("show", "--json").out)["plan"]["user"] == "agent"
    assert run(bottle, repo, "id -un", "--user=0") == "root\n"


# --- what runs in the bottle


def test_post_start_commands_run_before_the_command(bottle: Bottle, repo: Repo) -> None:
    write(
        repo,
        postStartCommand={
            "server": "cd /tmp && echo page > index.html && httpd -p 3000",
            "said": "echo hello",
        },
        workspaceFolder="/workspace/sub",
        containerEnv={"F": "${containerWorkspaceFolder}"},
    )
    argv = ("run", "-q", "--backend=docker", "--workspace=clone", "--")
    script = 'wget -qO- http://127.0.0.1:3000/; echo "$PWD $F"; cat file'
    done = bottle(*argv, "sh", "-c", script, cwd=repo.top)
    assert (done.code, done.out) == (0, "page\n/workspace/sub /workspace/sub\nin sub\n")
    assert "hello" in done.err
    write(repo, postStartCommand="echo its words; exit 6")
    done = bottle(*argv, "echo", "not this", cwd=repo.top)
    assert (done.code, done.out) == (6, "")
    assert "its words" in done.err
    assert "postStartCommand failed with exit status 6" in done.err


@pytest.mark.slow
def test_post_start_commands_run_before_the_command_of_the_image(bottle: Bottle, repo: Repo) -> None:
    text = (repo.top / ".devcontainer/Dockerfile").read_text()
    (repo.top / ".devcontainer/Dockerfile").write_text(text + 'ENTRYPOINT ["echo"]\nCMD ["own  command"]\n')
    write(repo, postStartCommand="echo started")
    done = bottle("run", "-q", "--backend=docker", cwd=repo.top)
    assert (done.code, done.out, done.err) == (0, "own  command\n", "started\n")


# --- ports, variables, users and folders


def test_ports_variables_users_and_folders_are_taken_from_devcontainer_json(
    bottle: Bottle, repo: Repo
) -> None:
    write(
        repo,
        forwardPorts=[3000],
        containerUser="root",
        containerEnv={
            "LOCAL": "${localWorkspaceFolder}",
            "NAME": "${localWorkspaceFolderBasename}",
            "INSIDE": "${containerWorkspaceFolder}",
            "UNSET": "${localEnv:NOT_SET_HERE:default}",
            "SET": "${localEnv:SET_HERE:default}",
            "NUMBER": 3,
        },
        remoteEnv={"ALSO": "${containerEnv:NAME}!"},
    )
    show = 'echo "$LOCAL|$NAME|$INSIDE|$UNSET|$SET|$NUMBER|$ALSO|$(id -un)|$PWD" > /tmp/index.html'
    serve = "cd /tmp && echo there && exec httpd -f -p 3000"
    argv = ("run", "--backend=docker", "--workspace=clone", "--name=ported", "--yes", "--", "sh", "-c")
    with bottle.start(*argv, f"{show}; {serve}", cwd=repo.top, env={"SET_HERE": "set"}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "there\n"
        told = next(line for line in process.stderr if "port 3000" in line)
        address = re.search(r"127\.0\.0\.1:\d+", told)
        assert address is not None
        with urllib.request.urlopen(f"http://{address[0]}/", timeout=30) as page:
            text = page.read().decode().strip()
        process.terminate()
        process.communicate(timeout=60)
    where = str(repo.top)
    assert text == f"{where}|project|/workspace|default|set|3|project!|agent|/workspace"
