"""An archive that is still being written: its layers can be read as soon as each is complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from bot_bottle.host.signals import defer_signals
from bot_bottle.image.layers import Blob
from bot_bottle.tar.reader import BLOCK, Headers

_MAGIC = b"ustar"  # of POSIX and GNU headers
_MAGIC_AT = 257


class Arriving:
    """A tar that one thread writes to `path`, reporting its progress; others wait for more of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._ended = False
        self._changed = threading.Condition()

    def advance(self, count: int) -> None:
        """Report that `count` more bytes have been written."""
        with defer_signals(), self._changed:  # a signal raised while the lock is taken would keep it taken
            self._size += count
            self._changed.notify_all()

    def end(self) -> None:
        """Report that nothing more will come, or that nobody needs to wait for it."""
        with defer_signals(), self._changed:
            self._ended = True
            self._changed.notify_all()

    def has(self, size: int) -> bool:
        """Wait until `size` bytes have been written, or never will be; return whether they have."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._size >= size)
            return self._size >= size

    def layers(self) -> Iterator[Blob]:
        """Yield each member that is itself an uncompressed tar, as soon as it is complete.

        A blob can be read until the next one is requested. Raises ImageError for anything but a tar, and for
        one that is truncated.
        """
        if not self.has(1):
            return
        with self._path.open("rb") as file:
            for member in Headers(_Stream(self, file.fileno()), str(self._path), strict_end=True):
                if member.isreg() and self.has(member.offset_data + member.size):
                    blob = Blob(file.fileno(), member.offset_data, member.size)
                    if blob.pread(BLOCK, 0)[_MAGIC_AT:].startswith(_MAGIC):
                        yield blob


class _Stream:
    """What has been written, read in order."""

    def __init__(self, arriving: Arriving, fd: int) -> None:
        self._arriving = arriving
        self._fd = fd
        self._position = 0

    def read(self, count: int, /) -> bytes:
        if not self._arriving.has(self._position + count):
            return b""
        data = os.pread(self._fd, count, self._position)
        self._position += len(data)
        return data

    def skip(self, count: int, /) -> int:
        self._position += count
        return count
