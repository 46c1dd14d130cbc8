"""A tar stream that records whether it reached its end.

An engine's exit status is not enough: `podman save` exits with status 0 on SIGTERM.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Callable
from typing import BinaryIO

_PIECE = 1 << 20  # bytes; also the largest pipe buffer that Linux allows every user
_END_MARK = bytes(1024)  # POSIX.1-2017 pax, "ustar Interchange Format": two blocks of zeros


class TarStream(io.RawIOBase):
    """Reads from `source` and remembers the last bytes."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self._last = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, count: int | None = -1, /) -> bytes:
        """Return `count` bytes, fewer only at the end; without a count, all the rest."""
        data = self._source.read(-1 if count is None else count)
        self._last = (self._last + data if len(data) < len(_END_MARK) else data)[-len(_END_MARK) :]
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` as far as data is available; return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def pour(self, target: int, on_bytes: Callable[[int], None]) -> None:
        """Write the rest to a file that can also be read, within the kernel where that is possible.

        `on_bytes` is called with the size of each piece that was written.
        """
        if self._last or not hasattr(os, "splice"):
            self._copy(target, on_bytes)
            return
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._source, fcntl.F_SETPIPE_SZ, _PIECE)  # fewer switches between the two processes
        while count := os.splice(self._source.fileno(), target, _PIECE):
            on_bytes(count)
        size = os.fstat(target).st_size
        self._last = os.pread(target, len(_END_MARK), max(0, size - len(_END_MARK)))

    def _copy(self, target: int, on_bytes: Callable[[int], None]) -> None:
        while piece := self.read(_PIECE):
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
            on_bytes(len(piece))

    def at_end(self) -> bool:
        """Return whether nothing is left to read; what is left is discarded."""
        return not self._source.closed and not self.read(1)

    @property
    def whole(self) -> bool:
        """Whether the last bytes read are a tar's end mark."""
        return self._last == _END_MARK
