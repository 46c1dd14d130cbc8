"""Trees of processes: how they are ended, and how those that a killed command left are found again.

The processes of a session end children before their parents, then all, then by force. An orphan is found by
its pid and the time of its start, since the pid alone may be another process's by then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.host.wait import wait_until

_POLITE = 5.0  # seconds

_observers: list[Callable[[int], None]] = []


class _Process(Struct, frozen=True):
    """A row of the process table. `started` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    started: str


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot, or "" if it does not live."""
    process = _process(pid)
    return process.started if process else ""


def age() -> float | None:
    """Return for how many seconds this process has run, exact to a clock tick; None but on Linux."""
    if sys.platform != "linux" or not (started := start_time(os.getpid())):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")


def end_session(leader: int, wait: Callable[[float], bool]) -> None:
    """End the process `leader`, all in its group, and all that these have started and still wait for.

    `wait` waits some seconds at most for the leader's end and returns whether it ended. Members of the group
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
    wait_until(lambda: not any(map(_lives, family)), _POLITE)


def signal_group(leader: int, signum: int) -> None:
    """Send a signal to all in a group, which has the number of its leader and lives on after it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signum)


@contextmanager
def observe_starts(observer: Callable[[int], None]) -> Iterator[None]:
    """Call `observer` with the pid of every program that any thread starts until the block ends."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def announce_start(pid: int) -> None:
    """Call the observers with the pid of a program that was started in a session of its own."""
    for observer in tuple(_observers):
        observer(pid)


def sweep_process(stray: dict[str, Any]) -> None:
    """End what a run folder records as `process` (its sweeper)."""
    end_orphan(int(stray["pid"]), str(stray["started"]))


def end_orphan(pid: int, started: str, timeout: float = 10) -> bool:
    """End a process that a killed owner left, and all that it has started (Linux only).

    Return False, and end nothing, unless `pid` is still the process that started then. `timeout` (s) limits
    each attempt to end it in order.
    """
    if not started or start_time(pid) != started:
        return False

    def ended(seconds: float) -> bool:
        return wait_until(lambda: start_time(pid) != started, min(seconds, timeout), pause=0.02)

    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            end_session(pid, ended)
        else:
            os.kill(pid, signal.SIGKILL)
        ended(timeout)
    return True


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def _family(leader: int) -> list[_Process]:
    """Return all descendants of a process, without itself, parents first (Linux only)."""
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
