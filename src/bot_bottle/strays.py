"""Processes that a killed command left: told by their start time, so that a reused number is nobody's."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any


def start_time(pid: int) -> str:
    """Give a mark of when a process started ("" if there is none), so that a reused pid is told apart.

    Source: proc(5), field 22 of /proc/PID/stat, in clock ticks since boot.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def sweep(stray: dict[str, Any]) -> None:
    """End what a run folder records as `process` (its sweeper)."""
    end_stray(int(stray["pid"]), str(stray["started"]))


def end_stray(pid: int, started: str, timeout: float = 10) -> bool:
    """End a process that a killed owner left, if `pid` is still the one that started then (linux only)."""
    if not started or start_time(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(0.02)
    return True
