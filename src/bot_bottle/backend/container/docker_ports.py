"""Ports of a container that this machine's loopback reaches, through whoever holds its network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.errors import SpecError
from bot_bottle.host import process
from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.ports import Port

NAME = "ports"  # of the socket on which the network's holder is waited for

_TIMEOUT = 30.0  # seconds


@contextmanager
def forwarded(ports: Sequence[Port], folder: Path, run: RunDir, progress: Progress) -> Iterator[None]:
    """Have ports open until the block ends; the holder is waited for at NAME in `folder`.

    Tells which they are. Raises SpecError for one that is taken.
    """
    words = run.path / "ports.log"
    pairs = [f"{port.host}:{port.guest}" for port in ports]
    argv = helper("bot_bottle.network.port_forwarder", NAME, *pairs)
    with (
        words.open("wb") as output,
        process.background(argv, env=environment(), cwd=folder, output=output) as child,
    ):
        deadline = time.monotonic() + _TIMEOUT
        while not (said := words.read_text("utf-8", "replace")).endswith("]\n"):
            if child.code is not None or time.monotonic() > deadline:
                raise SpecError("a port cannot be published", why=said[-500:], next_step="take another")
            time.sleep(0.01)
        for host, guest in json.loads(said):
            progress.note(Port(host, guest).told())
        yield
