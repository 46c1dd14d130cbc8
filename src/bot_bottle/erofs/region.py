"""Parts of an image file that are written in order, in large pieces, while other parts grow."""

from __future__ import annotations

from typing import BinaryIO

_FLUSH = 1 << 20  # bytes
_HOLE = 1 << 16  # bytes of zeros from which on they are not written
_ZEROS = bytes(1 << 20)


class Region:
    """Bytes of a file from `start` on, each put at or after the end of those before it."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._buffer = bytearray()

    def put(self, at: int, data: bytes) -> None:
        """Write bytes at a position in the file; the gap before them is zeros. Raises OSError."""
        self._buffer += bytes(at - self._start - len(self._buffer))
        self._buffer += data
        if len(self._buffer) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory; the file's position is then behind it. Raises OSError."""
        if self._buffer:
            self._file.seek(self._start)
            self._file.write(self._buffer)
            self._start += len(self._buffer)
            self._buffer = bytearray()


def append(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write at the file's position; much of nothing but zeros becomes a hole. Raises OSError."""
    if len(data) >= _HOLE and data == _ZEROS[: len(data)]:
        file.seek(len(data), 1)
    else:
        file.write(data)
