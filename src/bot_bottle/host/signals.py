"""Ctrl-C, SIGTERM and SIGHUP as one exception, raised once and never between getting something and owning it.

A signal handler may raise between any two bytecodes, such as after a process is started and before it has an
owner. `defer_signals()` closes that gap: inside it a signal waits, and is raised when the block ends.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bot_bottle.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    depth = 0
    pending: int | None = None
    raised = False


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    if _State.raised:
        return  # clean-up is under way, and is bounded in time
    if _State.depth:
        _State.pending = signum
        return
    _State.raised = True
    raise Interrupted(signum)


def install() -> None:
    """Turn the ending signals into Interrupted, raised once in the main thread; later ones are ignored."""
    _State.depth, _State.pending, _State.raised = 0, None, False
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup asked for SIGHUP to be ignored
            signal.signal(signum, _on_signal)


def ignore() -> None:
    """Ignore the ending signals from now on, also while Python itself ends, which takes only a moment."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals until the block has ended, so that everything it gets has an owner.

    It does nothing in threads other than the main one, in which no signal is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.depth == 0 and _State.pending is not None and not _State.raised:
            signum, _State.pending = _State.pending, None
            _State.raised = True
            raise Interrupted(signum)


@contextmanager
def capture_signals() -> Iterator[list[int]]:
    """Yield a list to which signals are added instead of being raised, for a command that is to get them."""
    received: list[int] = []
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, lambda number, _frame: received.append(number))
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
