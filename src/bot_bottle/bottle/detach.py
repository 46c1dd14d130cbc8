"""A detached bottle: a separate process runs it, and its output goes to a log.

That process runs the same command line. A variable of its environment has the descriptor on which to report
that the bottle's command starts, the path of the log, and the bottle's name.
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

from msgspec import Struct

from bot_bottle.bottle import logs
from bot_bottle.errors import BottleError
from bot_bottle.host import signals
from bot_bottle.host.signals import defer_signals

_VARIABLE = "BOT_BOTTLE_DETACHED"
_PATIENCE = 10.0  # seconds


class DetachedProcess:
    """A process that runs a detached bottle."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], ready: int) -> None:
        self.name = name
        self.process = process
        self._ready = ready

    def begun(self) -> bool:
        """Wait until its command starts, or the process has exited without; return which."""
        try:
            return bool(os.read(self._ready, 1))
        finally:
            os.close(self._ready)

    def stop(self) -> None:
        """Send it a signal to stop: the first time its command, if that has started, and then the bottle."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds: float | None = None) -> bool:
        """Wait until the process has exited, `seconds` at most; return whether it has."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.returncode is not None


def end_all(started: Sequence[DetachedProcess]) -> None:
    """Stop bottles in order, and wait: a command that ignores SIGTERM is killed after ten seconds."""
    for each in started:
        each.stop()
    deadline = time.monotonic() + _PATIENCE
    for each in started:
        if not each.ended(max(0.0, deadline - time.monotonic())):
            each.stop()
    for each in started:
        each.ended()


def start(name: str, arguments: Sequence[str], image: str = "") -> DetachedProcess:
    """Start a process that runs a command line as a detached bottle, of an `image` that is already built."""
    log = logs.begin(name)
    ready, tell = os.pipe()
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
    return DetachedProcess(name, child, ready)


def detach(name: str, arguments: Sequence[str]) -> int:
    """Run a command line as a detached bottle in another process; wait until the bottle's command starts.

    Returns 0, or the status with which it failed before that; until then its messages go to our standard
    error.
    """
    started = None
    try:
        with defer_signals():
            started = start(name, arguments)
        if not started.begun():
            return started.process.wait()
        signals.ignore()
        return 0
    except BottleError:  # interrupted: it is stopped in order too
        end_all([started] if started else [])
        raise


class DetachedRunner(Struct, frozen=True):
    """What the process that runs a detached bottle knows of its task."""

    name: str
    tell: int
    log: int
    image: str

    def begin(self) -> None:
        """Report that the bottle's command starts. From then on, our output goes to the log."""
        os.dup2(self.log, 2)
        with suppress(OSError):  # the process that waited for it is gone
            os.write(self.tell, b"\n")
        os.close(self.tell)
        logs.keep_small(self.log)


def detached_runner() -> DetachedRunner | None:
    """Return the task of a process that runs a detached bottle, else None. Children do not get it."""
    try:
        name, tell, log, image = json.loads(os.environ.pop(_VARIABLE, ""))
        for descriptor in (tell, log):
            os.set_inheritable(descriptor, False)
    except (ValueError, TypeError, OSError):
        return None
    return DetachedRunner(str(name), tell, log, str(image))
