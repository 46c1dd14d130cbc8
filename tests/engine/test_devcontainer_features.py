"""Features of a devcontainer.json, installed by the real reference CLI. They are local: no network needed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bottle import Bottle
from tests.support.engine_matrix import BASE, fresh_context
from tests.support.engines import CHECKOUT, Docker
from tests.support.repos import Repo, make_repo

pytestmark = pytest.mark.slow

CLI = "@devcontainers/cli@0.89.0"
USERS = "RUN mkdir -p /home/agent /tmp /usr/lib && chown 1000:1000 /home/agent && chmod 1777 /tmp\n"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder with the reference CLI, which is fetched once."""
    folder = CHECKOUT / ".cache/devcontainer-cli"
    found = folder / "node_modules/.bin"
    if not (found / "devcontainer").exists():
        folder.mkdir(parents=True, exist_ok=True)
        argv = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), CLI]
        subprocess.run(argv, check=True, timeout=300)
    return found


@pytest.fixture
def bottle(docker: Docker, cache_dir: Path, programs: Path, tmp_path: Path) -> Iterator[Bottle]:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    one = Bottle(
        cache_dir, {**docker.variables, "PATH": path, "TMPDIR": str(tmp_path), "DOCKER_BUILDKIT": None}
    )
    yield one
    assert not one.leftovers
    names = docker.docker("image", "ls", "--format={{.Repository}}").decode()
    assert "localhost/bot-bottle-" not in names


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = make_repo(tmp_path / "project")
    fresh_context(made.top / ".devcontainer")
    (made.top / ".devcontainer/Dockerfile").write_text(BASE + USERS)
    feature(made, "tool", 'echo "$WORD for $_REMOTE_USER" > /usr/lib/tool')
    made.commit({"README": "readme\n"})
    return made


def feature(repo: Repo, name: str, script: str, **more: Any) -> None:
    document = {"id": name, "version": "1.0.0", "name": name, "options": {"word": {"type": "string"}}, **more}
    folder = f".devcontainer/{name}"
    repo.write({f"{folder}/devcontainer-feature.json": json.dumps(document)})
    repo.write({f"{folder}/install.sh": f"#!/bin/sh\nset -e\n{script}\n"})


def write(repo: Repo, **document: Any) -> None:
    content = {
        "build": {"dockerfile": "Dockerfile"},
        "remoteUser": "agent",
        "features": {"./tool": {"word": "hello"}},
        # of which the CLI must not see anything: it would run it on this machine
        "customizations": {"initializeCommand": "false"},
        **document,
    }
    (repo.top / ".devcontainer/devcontainer.json").write_text(json.dumps(content))


def test_a_feature_is_in_the_image(bottle: Bottle, repo: Repo) -> None:
    write(repo)
    before = sorted(repo.top.rglob("*"))
    done = bottle("run", "--backend=docker", "--", "cat", "/usr/lib/tool", cwd=repo.top)
    assert (done.code, done.out) == (0, "hello for agent\n"), done
    assert sorted(repo.top.rglob("*")) == before
    again = bottle("run", "--backend=docker", "--", "cat", "/usr/lib/tool", cwd=repo.top)
    assert "features cached" in again.err
    feature(repo, "tool", "echo changed > /usr/lib/tool")
    changed = bottle("run", "-q", "--backend=docker", "--", "cat", "/usr/lib/tool", cwd=repo.top)
    assert changed.out == "changed\n"
    first, second = (bottle("pack", cwd=repo.top) for _ in range(2))
    assert first.path == second.path


def test_requirements_of_a_feature_are_refused_by_name(bottle: Bottle, repo: Repo) -> None:
    feature(repo, "tool", "true", containerEnv={"TOOL": "1"}, capAdd=["SYS_PTRACE"], init=True)
    write(repo)
    done = bottle("run", "-q", "--backend=docker", "--", "sh", "-c", "echo $TOOL", cwd=repo.top)
    assert (done.code, done.out) == (0, "1\n"), done
    feature(
        repo, "tool", "true", privileged=True, entrypoint="/start", mounts=["source=a,target=/b,type=volume"]
    )
    refused = bottle("pack", cwd=repo.top)
    refused.failed(
        101, "the feature ./tool asks for what a bottle does not have: privileged, mounts, entrypoint"
    )


def test_lifecycle_commands_of_a_feature_need_buildkit(bottle: Bottle, docker: Docker, repo: Repo) -> None:
    feature(repo, "tool", "true", postCreateCommand="echo from the feature > /tmp/said")
    write(repo, postCreateCommand="echo from the repository >> /tmp/said")
    done = bottle("run", "-q", "--backend=docker", "--", "cat", "/tmp/said", cwd=repo.top)
    if done.code == 103:
        done.failed(103, "classic builder cannot run lifecycle commands", "postCreateCommand of ./tool")
    else:
        assert done.out == "from the feature\nfrom the repository\n"


def test_a_feature_that_fails_is_told_in_its_own_words(bottle: Bottle, repo: Repo) -> None:
    feature(repo, "tool", "echo its own words >&2; exit 3")
    write(repo)
    done = bottle("pack", cwd=repo.top)
    done.failed(104, "the features of ", "could not be installed", "its own words")
    write(repo, features={"./missing": {}})
    bottle("pack", cwd=repo.top).failed(101, "there is no folder of the feature ./missing")


def test_a_feature_may_not_bring_files_of_this_machine(bottle: Bottle, repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("private")
    (repo.top / ".devcontainer/tool/link").symlink_to(tmp_path / "outside")
    write(repo)
    bottle("pack", cwd=repo.top).failed(101, "a feature cannot have", "link out of its folder")
    write(repo, features={"../../outside": {}})
    bottle("pack", cwd=repo.top).failed(101, "has no folder of its own")

    # the CLI would find the repository's own file there, and run what that says on this machine
    for name in ("./", "..", "../.devcontainer/."):
        write(repo, features={name: {}})
        bottle("pack", cwd=repo.top).failed(101, "has no folder of its own")
