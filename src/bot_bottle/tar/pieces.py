"""Pieces of bytes as a forward stream, for a tar that comes in pieces."""

from __future__ import annotations

from collections.abc import Iterator


class PieceStream:
    """Reads pieces of any sizes in order."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, count: int, /) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        parts = []
        while count and self._more():
            part, self._piece = self._piece[:count], self._piece[count:]
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes; return how many there were."""
        left = count
        while left and self._more():
            part, self._piece = self._piece[:left], self._piece[left:]
            left -= len(part)
        return count - left

    def _more(self) -> bool:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece = memoryview(piece)
        return True
