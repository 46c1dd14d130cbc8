"""The checksums of a file that is being written, computed while it is written."""

from __future__ import annotations

from bot_bottle.image.hashing import BackgroundHash
from bot_bottle.smolmachine.crc import crc32, crc32_combine
from bot_bottle.smolmachine.frames import SEGMENT_CRC


class Sums:
    """CRC-32 and SHA-256 of all pieces, in their order. To be used as a context."""

    def __init__(self) -> None:
        self._crc = 0
        self._sha256 = BackgroundHash("sha256")

    def add(self, data: bytes) -> None:
        """Add a piece."""
        self._sha256.update(data)
        self._crc = crc32(data, self._crc)

    def add_segment(self, data: bytes) -> None:
        """Add a segment, whose CRC-32 is the same for all."""
        self._sha256.update(data)
        self._crc = crc32_combine(self._crc, SEGMENT_CRC, len(data))

    @property
    def crc(self) -> int:
        """The CRC-32 of all pieces so far (IEEE 802.3)."""
        return self._crc

    @property
    def sha256(self) -> str:
        """The SHA-256 of all pieces so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, *_: object) -> None:
        self._sha256.close()
