"""The caller's terminal: raw mode while a command inside uses it, and its size as it changes."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_POLL = 0.2  # seconds
_LINE = 1000  # bytes of an answer
_SIGNALLED = 128
# the keyboard protocols of kitty and xterm, paste and focus reports, mouse reports, a hidden cursor
_UNDO = (
    b"\x1b[<99u\x1b[>4;0m\x1b[?2004l\x1b[?1004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?25h\x1b[0m"
)


def is_terminal() -> bool:
    """Return whether standard input and output are both a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def is_dumb() -> bool:
    """Return whether the terminal can only print: the cursor is not moved there, and nothing is coloured."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def shows_colours() -> bool:
    """Return whether the user wants colours on a terminal (no-color.org)."""
    return not os.environ.get("NO_COLOR") and not is_dumb()


def open_own() -> int | None:
    """Open the terminal that controls this process, wherever its streams lead; None if it has none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def ask_line(handle: int, question: str, lasts: Callable[[], bool]) -> str | None:
    """Print a question on a terminal and return the line that is typed, in lower case; "" at its end.

    What was typed before is not an answer. Return None when the question no longer `lasts`, and where the
    terminal belongs to other processes than ours: to read from it would stop us (SIGTTIN of signal(7)).
    """
    try:
        if os.tcgetpgrp(handle) != os.getpgrp():
            return None
        termios.tcflush(handle, termios.TCIFLUSH)
        os.write(handle, question.encode())
        while lasts():
            if select.select([handle], [], [], _POLL)[0]:
                return os.read(handle, _LINE).decode("utf-8", "replace").strip().lower()
        os.write(handle, b"\n")
    except OSError:  # it was closed
        return None
    return None


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
def modes_undone(*, active: bool) -> Iterator[list[int]]:
    """Undo what a program that was killed has left on in our terminal, if `active`.

    The block puts the program's exit status into the list. One that ended by itself has undone it. Sources:
    the kitty keyboard protocol; xterm, "Control Sequences".
    """
    status: list[int] = []
    try:
        yield status
    finally:
        killed = not status or status[0] >= _SIGNALLED
        if active and killed and not is_dumb():
            with suppress(OSError):
                os.write(sys.stdout.fileno(), _UNDO)


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
