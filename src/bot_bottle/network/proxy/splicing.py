"""Moves bytes from one socket to another without copying them into this process (splice(2))."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

_CAPACITY = 1 << 20  # bytes; the most that an ordinary user may ask for (pipe(7))


class Pipe:
    """The pipe that splice(2) needs between two sockets. It is empty before and after each use."""

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None

    def move(self, source: int, target: int, most: int) -> tuple[int, bytes]:
        """Move what a socket has received, `most` bytes at most, to one that does not block.

        Returns how many bytes were moved, and those that `target` does not take now. Both are empty where
        nothing was received, and where a socket has ended or failed: using it will say so.
        """
        try:
            reading, writing = self._opened()
            received = os.splice(source, writing, most, flags=os.SPLICE_F_NONBLOCK)
        except OSError:
            return 0, b""
        moved = 0
        with suppress(OSError):
            while moved < received and (
                size := os.splice(reading, target, received - moved, flags=os.SPLICE_F_NONBLOCK)
            ):
                moved += size
        return moved, self._rest(received - moved)

    def close(self) -> None:
        """Close it; the next use opens it again."""
        for end in self._ends or ():
            os.close(end)
        self._ends = None

    def _opened(self) -> tuple[int, int]:
        if self._ends is None:
            self._ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            with suppress(OSError):  # there is a limit for all pipes of a user; it works with any size
                fcntl.fcntl(self._ends[1], fcntl.F_SETPIPE_SZ, _CAPACITY)
        return self._ends

    def _rest(self, size: int) -> bytes:
        """Take out what is left, so that no byte gets into another connection."""
        if not size:
            return b""
        rest = os.read(self._opened()[0], size)
        if len(rest) != size:
            self.close()
            raise OSError("a pipe has lost bytes")
        return rest
