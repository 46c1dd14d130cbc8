"""The newest part of a bottle's output, with the position of each byte in all of it."""

from __future__ import annotations

MOST = 256 << 10  # bytes


class Ring:
    """Holds `most` bytes at most; the oldest lines are dropped."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._data = bytearray()
        self.start = 0  # how many bytes were dropped

    @property
    def end(self) -> int:
        """The number of bytes there ever were."""
        return self.start + len(self._data)

    def add(self, data: bytes) -> None:
        """Append output."""
        self._data += data
        if len(self._data) > self._most:
            cut = len(self._data) - self._most // 2
            cut = self._data.find(b"\n", cut) + 1 or cut
            del self._data[:cut]
            self.start += cut

    def read(self, position: int, most: int) -> tuple[int, bytes]:
        """Return `most` bytes at most from a position, or from the oldest there are, and where they begin."""
        begin = max(position, self.start)
        return begin, bytes(self._data[begin - self.start : begin - self.start + most])
