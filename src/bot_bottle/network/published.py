"""Publishes ports: starts `port_forwarder`, for which a process in a network namespace makes connections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.errors import SpecError
from bot_bottle.host import process
from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.wait import wait_until
from bot_bottle.network.ports import Port

NAME = "ports"  # of the socket on which the process in the namespace is waited for

_TIMEOUT = 30.0  # seconds


@contextmanager
def forwarded(ports: Sequence[Port], folder: Path, run: RunDir, progress: Progress) -> Iterator[None]:
    """Publish ports until the block ends; the process in the namespace connects to NAME in `folder`.

    Prints which they are. Raises SpecError for a port in use.
    """
    words = run.path / "ports.log"
    pairs = [f"{port.host}:{port.guest}" for port in ports]
    argv = helper("bot_bottle.network.port_forwarder", NAME, *pairs)
    with (
        words.open("wb") as output,
        process.background(argv, env=environment(), cwd=folder, output=output) as child,
    ):
        wait_until(lambda: words.read_bytes().endswith(b"]\n") or child.code is not None, _TIMEOUT)
        said = words.read_text("utf-8", "replace")
        if not said.endswith("]\n"):
            raise SpecError("cannot publish the port", why=said[-500:], next_step="choose another host port")
        for host, guest in json.loads(said):
            progress.note(Port(host, guest).describe())
        yield
