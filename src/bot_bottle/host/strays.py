"""Processes that a killed command left: noted when they start, and told by their start time ever after.

A pid alone may be another process's by then; with the time of its start it is nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bot_bottle.host.process_tree import end_session, start_time

__all__ = ["end_stray", "note", "noted_by", "start_time", "sweep"]

_witnesses: list[Callable[[int], None]] = []


@contextmanager
def noted_by(witness: Callable[[int], None]) -> Iterator[None]:
    """Tell `witness` the pid of every program that is started while the block lasts, by any thread."""
    _witnesses.append(witness)
    try:
        yield
    finally:
        _witnesses.remove(witness)


def note(pid: int) -> None:
    """Tell that a program was started, in a session of its own."""
    for witness in tuple(_witnesses):
        witness(pid)


def sweep(stray: dict[str, Any]) -> None:
    """End what a run folder records as `process` (its sweeper)."""
    end_stray(int(stray["pid"]), str(stray["started"]))


def end_stray(pid: int, started: str, timeout: float = 10) -> bool:
    """End a process that a killed owner left, if `pid` is still the one that started then (linux only).

    With it goes all that it has started. `timeout` (s) is for each try to end it in order.
    """
    if not started or start_time(pid) != started:
        return False

    def ended(seconds: float) -> bool:
        deadline = time.monotonic() + min(seconds, timeout)
        while (there := start_time(pid) == started) and time.monotonic() < deadline:
            time.sleep(0.02)
        return not there

    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            end_session(pid, ended)
        else:
            os.kill(pid, signal.SIGKILL)
        ended(timeout)
    return True
