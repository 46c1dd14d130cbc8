"""The checksums of a file that is being written, reckoned beside the writing of it."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from bot_bottle.smolmachine.crc import crc32, crc32_combine
from bot_bottle.smolmachine.frames import SEGMENT_CRC

_BEHIND = 4  # pieces that may wait for their turn: what is held is memory


class Sums:
    """CRC-32 and SHA-256 of all pieces, in their order. To be used as a context."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._waiting: deque[Future[None]] = deque()
        self._crc = 0
        self._sha256 = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Reckon with a piece, soon."""
        self._submit(data)
        self._crc = crc32(data, self._crc)

    def add_segment(self, data: bytes) -> None:
        """Reckon with a segment, soon: its CRC-32 is known."""
        self._submit(data)
        self._crc = crc32_combine(self._crc, SEGMENT_CRC, len(data))

    @property
    def crc(self) -> int:
        """The CRC-32 of all pieces so far (IEEE 802.3)."""
        return self._crc

    @property
    def sha256(self) -> str:
        """The SHA-256 of all pieces so far, in hexadecimal."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.hexdigest()

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, data: bytes) -> None:
        if len(self._waiting) == _BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._sha256.update, data))
