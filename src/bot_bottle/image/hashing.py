"""Digests of streams, computed by a separate thread while the stream is read or written."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_BEHIND = 4  # pieces that may wait, which are held in memory
_WORTH = 64 << 10  # bytes; below this a thread is slower


class BackgroundHash:
    """A hash of pieces in their order. It has to be closed."""

    def __init__(self, algorithm: str) -> None:
        self._hash: Any = hashlib.new(algorithm)
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def update(self, data: bytes) -> None:
        """Add a piece, which must not change, to the queue."""
        if self._pool is None:
            if len(data) < _WORTH:
                self._hash.update(data)
                return
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
        if len(self._waiting) == _BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._hash.update, data))

    def hexdigest(self) -> str:
        """Return the digest of all pieces so far, in hexadecimal."""
        while self._waiting:
            self._waiting.popleft().result()
        return str(self._hash.hexdigest())

    def close(self) -> None:
        """End the thread."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
