"""A bottle that outlives the command that started it: a process of its own holds it, its output is in a log.

That process runs the same command line. What it is, it is told in its environment: where to say that the
bottle's command begins, where the log is, and the bottle's name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bot_bottle.bottle import logs
from bot_bottle.errors import BottleError
from bot_bottle.host import signals
from bot_bottle.host.signals import defer_signals

_VARIABLE = "BOT_BOTTLE_DETACHED"
_PATIENCE = 10.0  # seconds


class DetachedProcess:
    """A process that is to hold a bottle."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], told: int) -> None:
        self.name = name
        self.process = process
        self._told = told

    def begun(self) -> bool:
        """Wait until its command begins, or until the process has ended without."""
        try:
            return bool(os.read(self._told, 1))
        finally:
            os.close(self._told)

    def stop(self) -> None:
        """Pass on that it is to end: the first time its command, if that has begun, and then the bottle."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds: float | None = None) -> bool:
        """Wait until the process has ended, `seconds` at most."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.returncode is not None


def end_all(started: Sequence[DetachedProcess]) -> None:
    """End bottles in order, and wait until they have: a command that is deaf gets ten seconds."""
    for each in started:
        each.stop()
    deadline = time.monotonic() + _PATIENCE
    for each in started:
        if not each.ended(max(0.0, deadline - time.monotonic())):
            each.stop()
    for each in started:
        each.ended()


def start(name: str, arguments: Sequence[str], image: str = "") -> DetachedProcess:
    """Have another process run a command line and hold a bottle, of an `image` that is built already."""
    log = logs.begin(name)
    told, tell = os.pipe()
    try:
        child = subprocess.Popen(  # noqa: S603 - our own program, our own arguments
            [sys.executable, "-m", "bot_bottle", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            start_new_session=True,
            pass_fds=(tell, log),
            env={**os.environ, _VARIABLE: json.dumps([name, tell, log, image])},
        )
    finally:
        os.close(tell)
        os.close(log)
    return DetachedProcess(name, child, told)


def detach(name: str, arguments: Sequence[str]) -> int:
    """Have another process run a command line and hold the bottle; wait until the bottle's command begins.

    Gives 0, or the status with which it failed before that; what it says until then goes where we say things.
    """
    started = None
    try:
        with defer_signals():
            started = start(name, arguments)
        if not started.begun():
            return started.process.wait()
        signals.ignore()
        return 0
    except BottleError:  # interrupted: it ends in order too
        end_all([started] if started else [])
        raise


@dataclass(frozen=True, slots=True)
class DetachedRunner:
    """What the process that holds a detached bottle is told."""

    name: str
    tell: int
    log: int
    image: str

    def begin(self) -> None:
        """Say that the bottle's command begins. From then on, what we say goes to the log."""
        os.dup2(self.log, 2)
        with suppress(OSError):  # whoever waited for it has gone
            os.write(self.tell, b"\n")
        os.close(self.tell)
        logs.keep_small(self.log)


def detached_runner() -> DetachedRunner | None:
    """Return whether this process is to hold a detached bottle. Nothing that it starts is told of it."""
    try:
        name, tell, log, image = json.loads(os.environ.pop(_VARIABLE, ""))
        for descriptor in (tell, log):
            os.set_inheritable(descriptor, False)
    except (ValueError, TypeError, OSError):
        return None
    return DetachedRunner(str(name), tell, log, str(image))
