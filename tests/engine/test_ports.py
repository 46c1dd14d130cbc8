"""Ports of a container, reached from this machine and from nowhere else."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.bottle import Bottle, end, wait_until
from tests.support.engines import Docker
from tests.support.images import BOTTLE_DOCKERFILE, busybox_context

SERVE = (
    "mkdir /tmp/w; cd /tmp/w; head -c 5000000 /dev/urandom > data; sha256sum < data; exec httpd -f -p 3000"
)
QUIET = ("run", "-q", "--backend=docker")
ECHO = "nc -ll -p 4000 -e cat"


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    return docker.build(busybox_context(tmp_path_factory.mktemp("ports"), BOTTLE_DOCKERFILE))


@pytest.fixture(autouse=True)
def nothing_left(bottle: Bottle) -> Iterator[None]:
    yield
    assert not bottle.leftovers


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("allowed", [(), ("--allow=api.example.org",)], ids=["closed", "with egress"])
def test_a_published_port_answers_on_loopback_alone(
    bottle: Bottle, image: str, tmp_path: Path, allowed: tuple[str, ...]
) -> None:
    port = free_port()
    argv = (
        "run",
        "--backend=docker",
        "--name=served",
        *allowed,
        f"--publish={port}:3000",
        "--publish=4000",
        "--image",
        image,
    )
    with bottle.start(*argv, "--", "sh", "-c", f"{ECHO} & {SERVE}") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        digest = process.stdout.readline().split()[0]
        url = f"http://127.0.0.1:{port}/data"
        fetch: list[str | Path] = ["curl", "-sSf", "-o", tmp_path / "got", url]
        wait_until(lambda: subprocess.run(fetch).returncode == 0, pause=0.2)
        summed = subprocess.run(["sha256sum", tmp_path / "got"], capture_output=True, text=True, check=True)
        assert summed.stdout.split()[0] == digest
        listening = subprocess.run(
            ["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True
        )
        assert [line.split()[3] for line in listening.stdout.splitlines()] == [f"127.0.0.1:{port}"]
        process.terminate()
        told = end(process).err
    assert f"port 3000 of the bottle is on 127.0.0.1:{port}" in told
    assert re.search(r"port 4000 of the bottle is on 127\.0\.0\.1:\d+", told)
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 5):
        pytest.fail("the port is still open")


def test_many_connections_at_once_are_kept_apart(bottle: Bottle, image: str) -> None:
    port = free_port()
    argv = ("run", "-q", "--backend=docker", "--name=echo", f"--publish={port}:4000", "--image", image)
    with bottle.start(*argv, "--", "sh", "-c", f"echo up; {ECHO}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        found: dict[int, bytes] = {}

        def ask(number: int) -> None:
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(b"%d\n" % number * 1000)
                client.shutdown(socket.SHUT_WR)
                found[number] = b"".join(iter(lambda: client.recv(65536), b""))

        wait_until(lambda: _answers(port))
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {number: b"%d\n" % number * 1000 for number in range(20)}
        process.terminate()


def _answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"x")
        return client.recv(1) == b"x"


def test_a_port_in_use_is_refused_before_the_command_starts(bottle: Bottle, image: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        argv = (
            "run",
            "-q",
            "--backend=docker",
            f"--publish={port}:3000",
            "--image",
            image,
            "--",
            "echo",
            "started",
        )
        bottle(*argv).failed(101, f"cannot publish {port}:", str(port))


def test_a_published_port_gives_the_bottle_no_network(bottle: Bottle, image: str) -> None:
    done = bottle(
        "run", "-q", "--backend=docker", "--publish=3000", "--image", image, "--", "ls", "/sys/class/net"
    )
    assert (done.code, done.out) == (0, "lo\n")
