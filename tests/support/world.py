"""A world of its own for bottles to get out into: a network namespace with an internet, a LAN and metadata.

All addresses are on its loopback. Those of the internet are real ones, since a policy tells
them from a neighbourhood's; nothing leaves the namespace. bottle is run in it, with a hosts file of its own;
the engine is not.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import model_server

API, OTHER, WILD = "9.9.9.10", "9.9.9.20", "9.9.9.30"
LAN, METADATA, RESOLVER = "192.168.77.1", "169.254.169.254", "9.9.9.53"
TURNS = 7000  # a port of API
NOBODY = "9.9.9.40"  # nothing listens there
MODELS = "9.9.9.60"  # the vendors of agents
ADDRESSES = (API, OTHER, WILD, LAN, METADATA, RESOLVER, MODELS)
UDP_PORTS = (53, 443)
HOSTS = {
    "api.example.org": API,
    "other.example.org": OTHER,
    "a.wild.example.net": WILD,
    "b.a.wild.example.net": WILD,
    "wild.example.net": OTHER,
    "api.example.org.evil.example": OTHER,
    "rebound.example.org": LAN,
    "clouded.example.org": METADATA,
    "looped.example.org": "127.0.0.1",
    "moved.example.org": NOBODY,
    "both.example.org": LAN,
    "closed.example.org": NOBODY,
    **dict.fromkeys(model_server.HOSTS, MODELS),
}
SECOND = {  # addresses that follow others
    "moved.example.org": API,
    "both.example.org": API,
}

_ROOT = Path(__file__).parents[2]
_IN_IT = 'mount --bind "$0" /etc/hosts && exec "$@"'


@dataclass(frozen=True)
class World:
    """The namespace `name`, and a folder with what its servers saw and serve (`files`), and `ca.pem`."""

    name: str
    folder: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """What is put before a command line to run it in this world."""
        return ("ip", "netns", "exec", self.name, "sh", "-c", _IN_IT, str(self.folder / "hosts"))

    @property
    def prefix_of_podman(self) -> tuple[str, ...]:
        """The same with this machine's /sys, where podman finds the control groups."""
        inside = ("nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount")
        return (*inside, "sh", "-c", _IN_IT, str(self.folder / "hosts"))

    def seen(self) -> list[dict[str, Any]]:
        """What arrived at its servers."""
        return [json.loads(line) for line in (self.folder / "seen").read_text().splitlines()]

    def forget(self) -> None:
        """Begin with what arrived anew."""
        os.truncate(self.folder / "seen", 0)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Make a world, until the block ends."""
    name = f"bottle-test-{secrets.token_hex(4)}"
    made = World(name, folder)
    lines = [f"{address} {host}" for hosts in (HOSTS, SECOND) for host, address in hosts.items()]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
    (folder / "seen").touch()
    furnish(folder)
    _run("ip", "netns", "add", name)
    try:
        _devices(name)
        argv = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.support.world_servers"]
        with subprocess.Popen([*argv, str(folder)], cwd=_ROOT) as servers:
            try:
                while not (folder / "ready").exists():
                    assert servers.poll() is None, "the servers have ended"
                yield made
            finally:
                servers.kill()
    finally:
        _run("ip", "netns", "delete", name)


@contextmanager
def routed(made: World) -> Iterator[None]:
    """Give a world a route to everywhere, which passt asks for; it ends at a device that leads nowhere."""
    for command in (
        "link add away type bridge",
        "addr add 203.0.113.7/24 dev away",
        "link set away up",
        "route add default via 203.0.113.1",
    ):
        _run("ip", "-n", made.name, *command.split())
    try:
        yield
    finally:
        _run("ip", "-n", made.name, "link", "delete", "away")


@contextmanager
def loopback_service(made: World, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a service at a port of a world's 127.0.0.1, which writes a line whenever something arrives."""
    argv = ["ip", "netns", "exec", made.name, sys.executable, "-c", _SERVICE, str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout
            assert service.stdout.readline() == "ready\n"
            yield service
        finally:
            service.kill()


_SERVICE = """
import selectors, socket, sys
poll = selectors.DefaultSelector()
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", int(sys.argv[1])))
    if kind == socket.SOCK_STREAM:
        made.listen()
    poll.register(made, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        if key.fileobj.type == socket.SOCK_STREAM:
            print("connected", flush=True)
            key.fileobj.accept()[0].close()
        else:
            print("sent", key.fileobj.recv(100), flush=True)
"""


def furnish(folder: Path) -> None:
    """Put into a folder what its servers need: a certificate for all the names (`cert.pem`), and `files`."""
    _certify(folder)
    _repository(folder)


def _devices(name: str) -> None:
    commands = ["link set lo up", *(f"addr add {address}/32 dev lo" for address in (*ADDRESSES, NOBODY))]
    for command in commands:
        _run("ip", "-n", name, *command.split())


def _certify(folder: Path) -> None:
    """Make a certificate for all the names, its own authority."""
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=world"
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    _run(*key.split(), "-addext", f"subjectAltName={names}", *files)


def _repository(folder: Path) -> None:
    """Make a repository that is served as plain files."""
    source, bare = folder / "source", folder / "files" / "repo.git"
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(source))
    _run("git", "init", "-q", str(source))
    (source / "file").write_text("from far away\n")
    _run(*git, "add", "file")
    _run(*git, "commit", "-q", "-m", "one")
    _run("git", "clone", "-q", "--bare", str(source), str(bare))
    _run("git", "-C", str(bare), "update-server-info")


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


def hold_value_reached_its_host_alone(outside: World, placeholder: str, value: str) -> None:
    """Hold that of four requests the first two, of its host, had the value, and the others a placeholder."""
    asked = [(each["address"], each["headers"]) for each in outside.seen() if "headers" in each]
    basic = base64.b64encode(f"me:{value}".encode()).decode()
    assert [(address, headers.get("Authorization"), headers.get("X-Key")) for address, headers in asked] == [
        (API, f"Bearer {value}", None),
        (API, f"Basic {basic}", None),
        (OTHER, None, placeholder),
        (API, None, placeholder),
    ]
