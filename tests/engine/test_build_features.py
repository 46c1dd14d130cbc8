"""What Dockerfiles of BuildKit and buildah have: secrets, SSH agents, mounts and here-documents."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot_bottle.engine.engine import BuildRequest, Engine
from bot_bottle.errors import BottleError, BuildError, EngineError
from bot_bottle.image.archive import open_archive, spool
from bot_bottle.image.layers import Layer
from bot_bottle.secrets.build import BuildSecret, Ssh
from tests.support.bottle import Bottle
from tests.support.canary import Canary, holders
from tests.support.engine_matrix import BASE, dockerfile, fresh_context
from tests.support.engines import private_docker
from tests.support.images import copy_with_libraries

pytestmark = pytest.mark.one_store

SECRETS = """\
RUN --mount=type=secret,id=a.file --mount=type=secret,id=a-variable \\
    cd /run/secrets && sha256sum a.file a-variable > /sums && echo looking && sleep 1 && cat a.file a-variable
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context that no build has seen."""
    return fresh_context(tmp_path / "context")


@pytest.fixture
def secrets(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> tuple[BuildSecret, ...]:
    """The canary in a file, and in a variable."""
    monkeypatch.setenv("MINE", canary.path.read_text())
    return BuildSecret("a.file", "file", str(canary.path)), BuildSecret("a-variable", "env", "MINE")


def needs_buildkit(engine: Engine) -> bool:
    return engine.builder == "classic"


def refused(engine: Engine, request: BuildRequest, kind: type[BottleError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        engine.build(request, lambda _line: None)
    told = str(caught.value)
    assert [word for word in words if word not in told] == [], told


def layers(engine: Engine, image: str, folder: Path) -> list[bytes]:
    """The tar streams of an image's layers."""

    def content(layer: Layer) -> bytes:
        with layer.open() as stream:
            return stream.read()

    path = folder / "saved.tar"
    path.unlink(missing_ok=True)
    with engine.save(image) as stream:
        spool(stream, path, lambda _count: None)
    with open_archive(path) as archive:
        return [content(layer) for layer in archive.layers]


def content_of(name: str, layers: list[bytes]) -> str:
    """The content of a small file, by its name in the last layer that has it."""
    for layer in reversed(layers):
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for member in tar:
                if member.name.removeprefix("./") == name:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read().decode()
    raise AssertionError(f"{name} is in no layer")


def test_a_secret_is_in_its_step_and_nowhere_else(
    engine: Engine, context: Path, canary: Canary, secrets: tuple[BuildSecret, ...], tmp_path: Path
) -> None:
    request = replace(dockerfile(context, SECRETS), secrets=secrets)
    if needs_buildkit(engine):
        refused(engine, request, EngineError, "--build-secret", "Next: ")
        return
    said: list[str] = []
    seen: set[str] = set()

    def on_line(line: str) -> None:
        said.append(line)
        if line.endswith("looking"):
            seen.update(re.sub(r"/proc/\d+/", "", each) for each in holders(canary.value))

    image = engine.build(request, on_line)
    kept = layers(engine, image, tmp_path)
    sha = hashlib.sha256(canary.path.read_bytes()).hexdigest()  # to the last byte
    assert content_of("sums", kept) == f"{sha}  a.file\n{sha}  a-variable\n"
    assert [layer for layer in kept if canary.value in layer] == []
    assert seen
    assert {each.partition(":")[0] for each in seen} == {"environ"}  # of the engine's own program
    assert canary.value.decode() not in "\n".join(said)
    assert "***" in "\n".join(said)
    assert holders(canary.value) == []
    assert canary.places(tmp_path) == []


@pytest.mark.podmans_slow
def test_a_failing_step_does_not_show_its_secret(
    engine: Engine, context: Path, canary: Canary, secrets: tuple[BuildSecret, ...]
) -> None:
    if needs_buildkit(engine):
        return  # refused, as above
    step = (
        "RUN --mount=type=secret,id=a.file --mount=type=secret,id=a-variable cat /run/secrets/* && exit 7\n"
    )
    request = replace(dockerfile(context, step), secrets=secrets)
    with pytest.raises(BuildError) as caught:
        engine.build(request, lambda _line: None)
    assert "7" in caught.value.why
    assert canary.value.decode() not in str(caught.value)


@pytest.mark.podmans_slow
def test_a_secret_that_is_required_and_not_given_is_named(engine: Engine, context: Path) -> None:
    if needs_buildkit(engine):
        return
    step = "RUN --mount=type=secret,id=token,required=true cat /run/secrets/token\n"
    refused(engine, dockerfile(context, step), BuildError, "token")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real agent with one key; the public half is what it tells."""
    key, sock = tmp_path / "id", tmp_path / "agent.sock"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    with subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL) as process:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            while not sock.exists():
                assert process.poll() is None
            subprocess.run(["ssh-add", "-q", key], check=True, timeout=30)
            yield key.with_suffix(".pub").read_text().split()[1]
        finally:
            process.terminate()


@pytest.mark.podmans_slow
def test_an_ssh_agent_is_in_its_step(engine: Engine, context: Path, agent: str, tmp_path: Path) -> None:
    copy_with_libraries("ssh-add", context / "rootfs")
    key = tmp_path / "id"
    steps = (
        "RUN --mount=type=ssh ssh-add -L > /own\n"
        "RUN --mount=type=ssh,id=deploy ssh-add -L > /deploy\n"
        "RUN ssh-add -L > /none 2>&1 || true\n"
    )
    request = replace(dockerfile(context, steps), ssh=(Ssh("default"), Ssh("deploy", (str(key),))))
    if needs_buildkit(engine):
        refused(engine, request, EngineError, "--ssh", "Next: ")
        return
    kept = layers(engine, engine.build(request, lambda _line: None), tmp_path)
    for name in ("own", "deploy"):
        assert content_of(name, kept).split()[1] == agent
    assert agent not in content_of("none", kept)
    private = key.read_bytes().splitlines()[1]
    assert [layer for layer in kept if private in layer] == []


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """A folder in which no socket fits: a socket's path has 107 bytes at most."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    return folder


SHOW_KEYS = f"{BASE}RUN --mount=type=ssh ls /run\n"


def test_docker_that_cannot_make_an_agents_socket_is_explained(
    agent: str, context: Path, cache_dir: Path, long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context / "Dockerfile").write_text(SHOW_KEYS)
    monkeypatch.setenv("DOCKER_TMPDIR", str(long_folder))
    with private_docker("docker-28-overlay2", copy="long") as engine:
        bottle = Bottle(cache_dir, engine.variables)
        bottle("pack", "--ssh=default", context).failed(104, "bind: invalid argument", "DOCKER_TMPDIR set to")


def test_podman_that_cannot_make_an_agents_socket_is_explained(
    agent: str, context: Path, podman_bottle: Bottle, long_folder: Path
) -> None:
    (context / "Dockerfile").write_text(SHOW_KEYS)
    ended = podman_bottle("pack", "--ssh=default", context, env={"TMPDIR": str(long_folder)})
    ended.failed(104, "bind: invalid argument", "set TMPDIR to a folder with a shorter path")


def test_cache_bind_and_tmpfs_mounts_leave_nothing_in_the_image(
    engine: Engine, context: Path, tmp_path: Path
) -> None:
    steps = (
        "RUN --mount=type=bind,source=rootfs/etc,target=/mine cp /mine/hostname /copied\n"
        "RUN --mount=type=tmpfs,target=/scratch echo gone > /scratch/file\n"
        # last, as it is another one in the second build
        "RUN --mount=type=cache,target=/cache,id={id} echo {n} >> /cache/all && cp /cache/all /seen\n"
    )
    name = hashlib.sha256(str(context).encode()).hexdigest()
    if needs_buildkit(engine):
        refused(engine, dockerfile(context, steps), BuildError, "this Dockerfile needs BuildKit")
        return
    for number in ("1", "2"):
        request = dockerfile(context, steps.format(id=name, n=number))
        kept = layers(engine, engine.build(request, lambda _line: None), tmp_path)
    assert content_of("seen", kept) == "1\n2\n"
    assert content_of("copied", kept) == (context / "rootfs/etc/hostname").read_text()
    for absent in ("cache/all", "mine/hostname", "scratch/file"):
        with pytest.raises(AssertionError, match="no layer"):
            content_of(absent, kept)


@pytest.mark.podmans_slow
def test_here_documents_are_carried_out_or_refused(engine: Engine, context: Path, tmp_path: Path) -> None:
    steps = (
        'RUN <<END\necho "first" > /made\necho "$((1 + 1))" >> /made\nEND\nCOPY <<END /copied\ntext\nEND\n'
    )
    request = dockerfile(context, steps)
    major = int(engine.server_version.split(".")[0])
    if major < (5 if engine.name == "podman" else 23) or needs_buildkit(engine):
        refused(engine, request, BuildError, "Next: ")  # in its own words
        return
    kept = layers(engine, engine.build(request, lambda _line: None), tmp_path)
    assert (content_of("made", kept), content_of("copied", kept)) == ("first\n2\n", "text\n")


@pytest.mark.podmans_slow
def test_a_build_secret_is_in_no_output_or_file_of_pack(
    engine: Engine, context: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, as somebody types it, with the engine that is found then."""
    if needs_buildkit(engine):
        return
    dockerfile(context, SECRETS)
    own = Bottle(Path(os.environ["BOT_BOTTLE_CACHE_DIR"]), {"BOT_BOTTLE_ENGINE": engine.name})
    options = (f"--build-secret=id=a.file,src={canary.path}", "--build-secret=id=a-variable,env=MINE")
    done = own("pack", "-v", *options, context, env={"MINE": canary.path.read_text()})
    assert done.code == 0, done
    assert canary.value.decode() not in done.out + done.err
    assert canary.places(own.cache) == []
    assert own.leftovers == []
