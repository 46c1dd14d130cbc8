"""A tar stream that knows whether it came to its end.

An engine's exit status alone does not tell: `podman save` that is ended by SIGTERM ends with status 0.
"""

from __future__ import annotations

import io
from typing import BinaryIO

_END_MARK = bytes(1024)  # POSIX.1-2017 pax, "ustar Interchange Format": two blocks of zeros


class TarStream(io.RawIOBase):
    """Reads from `source` and keeps in mind what came last."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self._last = b""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, count: int | None = -1, /) -> bytes:
        """Give `count` bytes, fewer only at the end; without a count, all that is left."""
        data = self._source.read(-1 if count is None else count)
        self._last = (self._last + data if len(data) < len(_END_MARK) else data)[-len(_END_MARK) :]
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` as far as there is something, and give how far."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def at_end(self) -> bool:
        """Tell whether nothing is left to read; what is left is then no longer of use."""
        return not self._source.closed and not self.read(1)

    @property
    def whole(self) -> bool:
        """Whether the last bytes read are a tar's end mark."""
        return self._last == _END_MARK
