"""How the processes of a session are ended: children before their parents, then all, then by force."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_POLITE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class _Process:
    """A row of the process table. `started` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    started: str


def start_time(pid: int) -> str:
    """Give a mark of when a process started, "" if it does not live, so that a reused pid is told apart."""
    process = _process(pid)
    return process.started if process else ""


def end_session(leader: int, wait: Callable[[float], bool]) -> None:
    """End the process `leader`, all in its group, and all that these have started and still wait for.

    `wait` waits some seconds at most for the leader's end and tells whether it came. Members of the group
    without children in it are asked first, so that their parents end by themselves and tidy up: podman 4.3,
    when it is asked itself in the middle of a build, goes and leaves the step's container running.
    """
    family = _family(leader)
    leaves = _leaves([process for process in family if process.group == leader])
    for process in leaves:
        _send(process.pid, signal.SIGTERM)
    if not (leaves and wait(_POLITE)):
        signal_group(leader, signal.SIGTERM)
        wait(_POLITE)
    signal_group(leader, signal.SIGKILL)
    for process in filter(_lives, family):
        _send(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + _POLITE
    while any(map(_lives, family)) and time.monotonic() < deadline:
        time.sleep(0.01)


def signal_group(leader: int, signum: int) -> None:
    """Send a signal to all in a group, which has the number of its leader and lives on after it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signum)


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def _family(leader: int) -> list[_Process]:
    """Give all that descends from a process, without itself, parents first (linux only)."""
    everybody = [process for path in Path("/proc").glob("[0-9]*") if (process := _process(int(path.name)))]
    family: list[_Process] = []
    parents = {leader}
    while parents:
        children = [process for process in everybody if process.parent in parents]
        everybody = [process for process in everybody if process.parent not in parents]
        family += children
        parents = {process.pid for process in children}
    return family


def _lives(process: _Process) -> bool:
    return start_time(process.pid) == process.started


def _leaves(processes: list[_Process]) -> list[_Process]:
    parents = {process.parent for process in processes}
    return [process for process in processes if process.pid not in parents]


def _process(pid: int) -> _Process | None:
    """Read a row of the process table; a zombie has none. Source: proc(5), fields 3, 4, 5, 22 of the stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(pid, int(fields[1]), int(fields[2]), fields[19]) if fields[0] not in "ZX" else None
