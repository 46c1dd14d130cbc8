"""The caller's terminal: raw mode while a command inside uses it, and its size as it changes."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def is_terminal() -> bool:
    """Return whether standard input and output are both a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def is_dumb() -> bool:
    """Return whether the terminal can only print: the cursor is not moved there, and nothing is coloured."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def shows_colours() -> bool:
    """Return whether the user wants colours on a terminal (no-color.org)."""
    return not os.environ.get("NO_COLOR") and not is_dumb()


@contextmanager
def raw() -> Iterator[None]:
    """Pass every key to the command inside, also those typed before, and put the terminal back as it was."""
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    tty.setraw(handle, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


@contextmanager
def on_resize(callback: Callable[[int, int], None]) -> Iterator[None]:
    """Call `callback(rows, columns)` now and whenever the terminal's size changes."""

    def changed(_signum: int = 0, _frame: FrameType | None = None) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        callback(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, changed)
    changed()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
