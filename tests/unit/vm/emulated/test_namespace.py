"""The network namespace of an emulated host's QEMU, tried by a program in QEMU's place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.support.confined import END, NOBODY, PROBE, PYTHON, bare, nobody

from bot_bottle.vm.emulated.namespace import INTERCEPTOR_PORT, NAME_PORT, Namespace
from bot_bottle.vm.emulated.namespace_helper import FAILED

SCRIPT = f"""
def connected(port, address="127.0.0.1"):
    with socket.socket() as plug:
        plug.settimeout(5)
        plug.connect((address, port))
        return plug.recv(10).decode()
def asked():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        plug.settimeout(5)
        plug.sendto(b"who", ("127.0.0.1", {NAME_PORT}))
        return plug.recv(10).decode()
def capabilities():
    for line in open("/proc/self/status"):
        if line.startswith("CapEff"):
            return line.split()[1].strip("0") or "none"
server = socket.create_server(("127.0.0.1", 10000))
met("interceptor", lambda: connected({INTERCEPTOR_PORT}))
met("names", lambda: connected({NAME_PORT}))
met("name datagrams", asked)
met("loopback", lambda: connected(int(sys.argv[1])))
met("address", lambda: connected(443, "192.0.2.1"))
met("metadata", lambda: connected(80, "169.254.169.254"))
met("capabilities", capabilities)
client, _ = server.accept()
found["published"] = client.recv(10).decode()
"""


def serve(listener: socket.socket) -> None:
    """Take the sockets over, and answer once on each."""
    channel, _ = listener.accept()
    with channel:
        _, handles, _, _ = socket.recv_fds(channel, 1, 10)
    for kind, handle in zip("idn", handles, strict=True):
        made = socket.socket(fileno=handle)
        threading.Thread(target=answer, args=(made, kind.encode()), daemon=True).start()


def answer(made: socket.socket, text: bytes) -> None:
    with made:
        if made.type == socket.SOCK_DGRAM:
            made.sendto(text, made.recvfrom(10)[1])
        else:
            with made.accept()[0] as client:
                client.sendall(text)


def publish(listener: socket.socket) -> None:
    """Ask for a connection to the published port until the program listens, and say something."""
    channel, _ = listener.accept()
    with channel:
        descriptors: list[int] = []
        while not descriptors:
            channel.sendall((3000).to_bytes(2, "big"))
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        with socket.socket(fileno=descriptors[0]) as made:
            made.sendall(b"question")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-namespace-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("before", "capabilities"),
    [
        pytest.param((), None, id="ours"),
        pytest.param(nobody(), "none", id="nobody", marks=pytest.mark.root),
    ],
)
def test_only_the_sockets_are_reached(home: Path, before: Sequence[str], capabilities: str | None) -> None:
    with (
        socket.socket(socket.AF_UNIX) as sockets,
        socket.socket(socket.AF_UNIX) as connect,
        socket.create_server(("127.0.0.1", 0)) as canary,
    ):
        for each, name, target in ((sockets, "sockets", serve), (connect, "connect", publish)):
            each.bind(str(home / name))
            (home / name).chmod(0o666)
            each.listen()
            threading.Thread(target=target, args=(each,), daemon=True).start()
        made = Namespace(home / "sockets", home / "connect", (3000,))
        argv = [str(PYTHON), "-I", "-S", "-c", PROBE + SCRIPT + END, str(canary.getsockname()[1])]
        done = run([*before, *made.prefix(10_000), *argv])
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert (found.pop("capabilities") == capabilities) or (os.geteuid() == 0 and not before)
    assert found == {
        "interceptor": "i",
        "names": "n",
        "name datagrams": "d",
        "loopback": "ECONNREFUSED",
        "address": "ENETUNREACH",
        "metadata": "ENETUNREACH",
        "published": "question",
    }


@pytest.mark.root
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_without_a_namespace_the_program_does_not_start(home: Path, uid: int) -> None:
    done = run([*bare(uid), *Namespace(home / "sockets").prefix(1), sys.executable, "-c", "print('started')"])
    assert (done.returncode, done.stdout) == (FAILED, b"")
    assert b"QEMU cannot have a network namespace of its own: " in done.stderr
