"""Processes known by pid and start time, so that a pid that was given to another is told apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

STOP_SECONDS = 30.0
KILL_SECONDS = 5.0


def start_time(pid: int) -> str:
    """Return a mark of when a process started, or "" if it has ended. Source: proc(5), field 22 of stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def record(state: Path, pids: list[int]) -> None:
    """Write down processes, whole or not at all."""
    part = state.with_suffix(".part")
    part.write_text(json.dumps([[pid, start_time(pid)] for pid in pids]))
    part.rename(state)


def recorded(state: Path) -> list[tuple[int, str]]:
    """Return the processes that were written down; none if that cannot be read."""
    try:
        return [(int(pid), str(started)) for pid, started in json.loads(state.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def alive(state: Path) -> bool:
    """Tell whether there are processes written down, and all of them live."""
    marks = recorded(state)
    return bool(marks) and all(started and start_time(pid) == started for pid, started in marks)


def sweep_process(state: Path) -> None:
    """End the processes that were written down, the last one first."""
    for pid, started in reversed(recorded(state)):
        end(pid, started)


def end(pid: int, started: str) -> None:
    """End a process if `pid` is still the one that started then: politely, then by force."""
    for signum, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        if not started or start_time(pid) != started:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(0.02)
