"""The door of a container's network: a socket made inside it, on which a proxy outside of it answers.

A socket belongs to the network that it was made in, whoever holds it. So a program inside makes one that
listens and hands it out (unix(7), SCM_RIGHTS); the proxy needs no address that both can reach, and the
network of the container no device but loopback.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot_bottle import process
from bot_bottle.egress.policy import Policy, save_policy
from bot_bottle.egress.withheld import Withheld
from bot_bottle.errors import SpecError, WallsError
from bot_bottle.process import Child
from bot_bottle.rundir import RunDir
from bot_bottle.vm.handover import handed_over

ADDRESS = "127.0.0.1"
PORT = 3128  # where proxies have listened since squid

PARENT = "BOT_BOTTLE_PARENT"  # a proxy's variable: with whom it ends

_SOCKET = "socket"
_TIMEOUT = 30.0  # seconds

# what programs look at; loopback is the container's own
VARIABLES = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), f"http://{ADDRESS}:{PORT}"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
}

# run by this machine's Python inside the network: hand the listening socket out, and hold the network
MAKER = f"""\
import signal, socket, sys
listener = socket.create_server(("{ADDRESS}", {PORT}), backlog=128)
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
socket.send_fds(door, [b"l"], [listener.fileno()])
door.recv(1)
listener.close()
print("open", flush=True)
signal.pause()
"""


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
def door(
    policy: Policy, record: Record, run: RunDir, withheld: Sequence[Withheld], bundle: Path
) -> Iterator[Door]:
    """Run a proxy that holds to a policy, until the block ends.

    For what is `withheld` it writes a `bundle` of the authorities that the bottle is to trust.
    Raises WallsError when it does not come up.
    """
    check_proxy()
    folder = run.folder("door")
    folder.chmod(0o755)
    words = run.path / "door.log"
    save_policy(policy, record.policy)
    places = (_SOCKET, record.log, record.policy)  # a socket's path has 107 bytes at most
    argv = [sys.executable, "-m", "bot_bottle.egress.proxy", *map(str, places)]
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env[PARENT] = str(os.getpid())
    try:
        with ExitStack() as stack:
            if withheld:
                values = {each.name: each.value for each in withheld}
                pipes = stack.enter_context(handed_over(values, run.path))
                argv.append(str(_told(withheld, pipes, bundle, run)))
            output = stack.enter_context(words.open("wb"))
            child = stack.enter_context(process.background(argv, env=env, cwd=folder, output=output))
            made = Door(folder, child, words)
            _wait(made)
            yield made
    finally:
        record.policy.unlink(missing_ok=True)


def _told(withheld: Sequence[Withheld], pipes: Mapping[str, str], bundle: Path, run: RunDir) -> Path:
    """Write down where the proxy finds what it is to put in, and where it writes the bundle."""
    found = [
        {"placeholder": each.placeholder, "hosts": each.hosts, "pipe": pipes[each.name]} for each in withheld
    ]
    trusted = os.environ.get("SSL_CERT_FILE")
    document = {"folder": str(run.folder("authority")), "bundle": str(bundle), "trusted": trusted}
    path = run.path / "withheld.json"
    path.write_text(json.dumps({**document, "secrets": found}))
    return path


def _wait(made: Door) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not made.socket.exists():
        if made.process.code is not None or time.monotonic() > deadline:
            raise WallsError("the bottle's proxy did not come up", why=made.complaint())
        time.sleep(0.01)
