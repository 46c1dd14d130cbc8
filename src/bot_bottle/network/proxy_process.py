"""The door of a container's network: a socket made inside it, on which a proxy outside of it answers.

A socket belongs to the network that it was made in, whoever holds it. So a program inside (see `holder`)
makes one that listens and hands it out (unix(7), SCM_RIGHTS); the proxy needs no address that both can reach,
and the network of the container no device but loopback.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot_bottle.errors import SpecError, WallsError
from bot_bottle.host import process
from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.process import Child
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.wait import wait_until
from bot_bottle.network.credentials import Kept
from bot_bottle.network.policy import Policy, save_policy
from bot_bottle.secrets.fifo import secret_fifos

ADDRESS = "127.0.0.1"
PORT = 3128  # where proxies have listened since squid

_SOCKET = "socket"
_TIMEOUT = 30.0  # seconds

# what programs look at; loopback is the container's own
VARIABLES = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://{ADDRESS}:{PORT}"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
    "NODE_USE_ENV_PROXY": "1",  # without it Node's fetch and http look at none of them
}


@dataclass(frozen=True, slots=True)
class Door:
    """A proxy that waits for its socket. `folder` is what the maker has to see, `socket` its path there."""

    folder: Path
    process: Child
    words: Path

    @property
    def socket(self) -> Path:
        """Where the proxy waits."""
        return self.folder / _SOCKET

    def complaint(self) -> str:
        """Give the last of what the proxy said: nothing, as long as it is well."""
        return self.words.read_text("utf-8", "replace")[-2000:].strip()


def check_proxy() -> None:
    """Hold that there is a proxy to run. Raises SpecError."""
    if importlib.util.find_spec("mitmproxy") is None:
        raise SpecError(
            "a container that may reach something needs mitmproxy, which is not installed",
            next_step="pip install 'bot-bottle[egress]'; or use --backend smolmachines",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """Where a proxy writes what it refuses, and reads what it is held to, again whenever that has changed."""

    log: Path
    policy: Path


@contextmanager
def door(policy: Policy, record: Record, folder: Path, run: RunDir, kept: Kept) -> Iterator[Door]:
    """Run a proxy that holds to a policy, until the block ends. `folder` is what the maker has to see.

    Raises WallsError when it does not come up.
    """
    check_proxy()
    words = run.path / "door.log"
    save_policy(policy, record.policy)
    places = (_SOCKET, record.log, record.policy)  # a socket's path has 107 bytes at most
    argv = helper("bot_bottle.network.proxy", *places)
    try:
        with ExitStack() as stack:
            if kept.secrets:
                values = {each.name: each.value for each in kept.secrets}
                pipes = stack.enter_context(secret_fifos(values, run.path))
                argv.append(str(_told(kept, pipes, run)))
            output = stack.enter_context(words.open("wb"))
            proxy = process.background(argv, env=environment(), cwd=folder, output=output)
            child = stack.enter_context(proxy)
            made = Door(folder, child, words)
            _wait(made)
            yield made
    finally:
        record.policy.unlink(missing_ok=True)


def _told(kept: Kept, pipes: Mapping[str, str], run: RunDir) -> Path:
    """Write down where the proxy finds what it is to put in, and where it writes the bundle."""
    found = [
        {"placeholder": each.placeholder, "hosts": each.hosts, "pipe": pipes[each.name]}
        for each in kept.secrets
    ]
    trusted = os.environ.get("SSL_CERT_FILE")
    document = {"folder": str(run.folder("authority")), "bundle": str(kept.bundle), "trusted": trusted}
    path = run.path / "withheld.json"
    path.write_text(json.dumps({**document, "secrets": found}))
    return path


def _wait(made: Door) -> None:
    wait_until(lambda: made.socket.exists() or made.process.code is not None, _TIMEOUT)
    if not made.socket.exists():
        raise WallsError("the bottle's proxy did not come up", why=made.complaint())


# `listen=PATH`: hand out a socket that listens, for a proxy. `connect=PATH`: for every port that is asked
# for, in two bytes, hand out a connection to it; or say no. And hold the network until ended.
PROGRAM = f"""\
import signal, socket, sys

def listen(door):
    with socket.create_server(("{ADDRESS}", {PORT}), backlog=128) as listener:
        socket.send_fds(door, [b"l"], [listener.fileno()])
        door.recv(1)

def connect(door):
    while asked := door.recv(2, socket.MSG_WAITALL):
        try:
            made = socket.create_connection(("{ADDRESS}", int.from_bytes(asked, "big")), 5)
        except OSError:
            door.sendall(b"n")
        else:
            with made:
                made.settimeout(None)
                socket.send_fds(door, [b"y"], [made.fileno()])

for word in sys.argv[1:]:
    kind, _, path = word.partition("=")
    door = socket.socket(socket.AF_UNIX)
    door.connect(path)
    {{"listen": listen, "connect": connect}}[kind](door)
signal.pause()
"""
