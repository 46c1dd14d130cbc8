"""Engines that are not there, are others than they seem, or are ended in the middle."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import EngineError, ImageError
from tests.support.bottle import wait_until
from tests.support.engine_matrix import PODMAN, docker_clients, dockerfile, fresh_context
from tests.support.engines import CHOSEN, Docker, Podman, call


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context that no build has seen."""
    return fresh_context(tmp_path / "context")


# --- not there, or others than they seem


@pytest.fixture(params=docker_clients(), ids=str)
def client(
    request: pytest.FixtureRequest, docker: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """Each docker client alone on PATH."""
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.symlink_to(request.param)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.delenv("DOCKER_BUILDKIT", raising=False)
    monkeypatch.delenv("BOT_BOTTLE_ENGINE", raising=False)
    return path


@pytest.mark.parametrize("host", ["unix:///nonexistent.sock", "tcp://127.0.0.1:1"])
def test_a_daemon_that_does_not_answer_is_named_with_its_address(
    client: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineError, match="docker does not answer") as caught:
        find_engine()
    assert host in caught.value.why
    assert f"DOCKER_HOST={host}" in caught.value.next_step


def test_a_socket_that_this_user_may_not_use_is_refused_with_a_next_step(
    client: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700 if os.geteuid() == 0 else 0)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{closed}/docker.sock")
    monkeypatch.setenv("HOME", "/nonexistent")
    was = os.geteuid()
    if was == 0:
        tmp_path.chmod(0o755)
        for parent in client.parents:
            if parent != Path(tempfile.gettempdir()) and parent.is_relative_to(tempfile.gettempdir()):
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(EngineError, match="cannot be used by this user") as caught:
            find_engine()
    finally:
        os.seteuid(was)
    assert "usermod -aG docker" in caught.value.next_step


def test_a_docker_context_that_is_not_there_is_named(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "bot-bottle-test-nowhere")
    with pytest.raises(EngineError) as caught:
        find_engine()
    assert "bot-bottle-test-nowhere" in caught.value.why


def test_a_docker_command_that_is_podman_is_used_as_podman(
    podman: Podman, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, context: Path
) -> None:
    for name, value in podman.variables.items():
        monkeypatch.setenv(name, value)
    shim = tmp_path / "bin" / "docker"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\necho "Emulate Docker CLI using podman." >&2\nexec podman "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=os.pathsep)
    engine = find_engine("docker")
    assert (engine.name, engine.builder, engine.program.name) == ("podman", "buildah", "podman")
    assert engine.exists(engine.build(dockerfile(context, ""), lambda _: None))


if not CHOSEN.startswith(PODMAN):
    # the service of podman 5 sets limits for each step of a build, which root may not do in many containers

    def test_podmans_docker_service_builds_without_buildkit(
        context: Path, client: Path, podman: Podman, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = podman.folder / f"{client.resolve().parent.name}.sock"
        service = ["podman", "system", "service", "--time=0", f"unix://{address}"]
        path = os.pathsep.join(("/usr/bin", "/bin", "/usr/sbin", "/sbin"))
        with subprocess.Popen(service, env={**podman.env, "PATH": path}) as running:
            try:
                wait_until(address.exists)
                monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
                engine = find_engine()
                assert (engine.name, engine.builder) == ("docker", "classic")
                image = engine.build(dockerfile(context, "RUN echo made > /made\n"), lambda _: None)
                engine.tag(image, "bot-bottle-test-service:one")
                engine.untag("bot-bottle-test-service:one")
                assert engine.image_id(image) == image
            finally:
                running.terminate()


# --- ended in the middle


@contextmanager
def cutting_proxy(endpoint: str, limit: int) -> Iterator[str]:
    """Stand between a client and its daemon, and break each connection off after `limit` bytes."""
    folder = tempfile.mkdtemp(prefix="bb-")  # short: a socket's path has 107 bytes at most
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{folder}/s")
    server.listen()

    def carry(source: socket.socket, sink: socket.socket, left: float) -> None:
        with suppress(OSError):
            while left > 0 and (data := source.recv(65536)):
                sink.sendall(data)
                left -= len(data)
            for end in (source, sink) if left <= 0 else (sink,):
                end.shutdown(socket.SHUT_RDWR if left <= 0 else socket.SHUT_WR)

    def handle(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(endpoint.removeprefix("unix://"))
            back = Thread(target=carry, args=(daemon, client, limit))
            back.start()
            carry(client, daemon, math.inf)
            back.join()

    handlers: list[Thread] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                handlers.append(Thread(target=handle, args=server.accept()[:1]))
                handlers[-1].start()

    acceptor = Thread(target=serve)
    acceptor.start()
    try:
        yield f"unix://{folder}/s"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        for thread in (acceptor, *handlers):
            thread.join(30)
        server.close()
        shutil.rmtree(folder)


def test_a_daemon_that_goes_away_during_a_save_is_an_error(
    context: Path, client: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = find_engine()
    image = direct.build(dockerfile(context, ""), lambda _: None)
    with direct.save(image) as stream:
        whole = len(stream.read())
    asked = ["docker", "context", "inspect", "--format={{.Endpoints.docker.Host}}"]
    endpoint = call(asked, dict(os.environ)).decode().strip()
    with cutting_proxy(endpoint, whole // 2) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        engine = find_engine()
        with (
            pytest.raises(EngineError, match="docker does not answer") as caught,
            engine.save(image) as stream,
        ):
            assert 0 < len(stream.read()) < whole
            raise ImageError("the archive is cut short")
    assert "unexpected EOF" in caught.value.why


PROGRAM = """
import sys, time
from pathlib import Path
from bot_bottle.host import signals
from bot_bottle.errors import Interrupted
from bot_bottle.engine.engine import BuildRequest, find_engine

signals.install()
engine = find_engine(sys.argv[2])
try:
    if sys.argv[1] == "build":
        engine.build(BuildRequest(Path(sys.argv[3])), lambda line: print(line, flush=True))
    else:
        with engine.save(sys.argv[3]) as stream:
            stream.read(100_000)
            print("started", flush=True)
            time.sleep(600)
except Interrupted as error:
    sys.exit(128 + error.signum)
"""


def processes(mark: str) -> list[str]:
    """Give the processes that have `mark` in their environment or on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if mark.encode() in command + (process / "environ").read_bytes():
                found.append(f"{process.name} {command!r}")
    return found


@pytest.mark.parametrize("what", ["build", "save"])
@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.own)])
def test_an_interrupted_build_or_save_leaves_no_process(
    engine: Engine, context: Path, cache_dir: Path, what: str, signum: signal.Signals
) -> None:
    mark = f"86400{secrets.randbelow(10**9)}"  # also the seconds that the build's step would take
    request = dockerfile(context, f"RUN echo started && sleep {mark}\n" if what == "build" else "")
    subject = str(context) if what == "build" else engine.build(request, lambda _: None)
    command = [sys.executable, "-c", PROGRAM, what, engine.name, subject]
    environment = {**os.environ, "BOT_BOTTLE_TEST_MARK": mark}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        said = []
        for line in program.stdout:
            said.append(line)
            if re.fullmatch(r"(#\d+ \d+\.\d+ )?started\n", line):
                break
        else:
            pytest.fail("".join(said))
        if what == "build":
            wait_until(lambda: [each for each in processes(mark) if "'sleep" in each])
        assert len(processes(mark)) > 1
        program.send_signal(signum)
        assert program.wait(30) == 128 + signum
    wait_until(lambda: not processes(mark))
    assert not list((cache_dir / "runs").glob("*"))
