"""Decompression of zstd frames one after another, by several threads and in bounded memory.

Source: RFC 8878, section 3.1: frames are independent, and most state how many bytes of data they have.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import zstandard

from bot_bottle.smolmachine.frames import WINDOW_LOG_MAX, Frame

_THREADS_MAX = 4
_BATCH = 4 << 20  # bytes of data from which on frames are given to a thread
_FRAME_MAX = 16 << 20  # bytes of a frame, and of its data, that a thread takes; larger ones are streamed
_PIECE = 1 << 20

Read = Callable[[int], bytes]
"""Returns the next bytes of compressed data, fewer than asked for only at the end."""


class _Batch(NamedTuple):
    """Frames one after another: their size in bytes, and that of their data; None if it is to be streamed."""

    size: int
    content: int | None


def decompress(read: Read, frames: Iterable[Frame]) -> Generator[bytes, None, None]:
    """Yield the data of frames in pieces of 16 MiB at most.

    `read` is called in the caller's thread, in order. Raises zstandard.ZstdError for damaged data. The
    caller closes the iterator.
    """
    batches = _batches(frames)
    first = list(islice(batches, 2))
    if len(first) < 2:  # a thread would cost more than it saves
        for batch in first:
            yield from _streamed(read, batch.size)
    else:
        yield from _in_threads(read, chain(first, batches))


def _in_threads(read: Read, batches: Iterable[_Batch]) -> Iterator[bytes]:
    from concurrent.futures import Future, ThreadPoolExecutor  # only here: it takes long to load

    threads = min(os.cpu_count() or 1, _THREADS_MAX)
    coming: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decompress") as pool:
        for batch in batches:
            while coming and (batch.content is None or len(coming) > threads):
                yield coming.popleft().result()
            if batch.content is None:
                yield from _streamed(read, batch.size)
            else:
                coming.append(pool.submit(_unpacked, read(batch.size), batch.content))
        while coming:
            yield coming.popleft().result()


def _batches(frames: Iterable[Frame]) -> Iterator[_Batch]:
    size = content = 0
    for frame in frames:
        small = frame.content is not None and max(frame.size, frame.content) <= _FRAME_MAX
        if size and (not small or max(size + frame.size, content + (frame.content or 0)) > _FRAME_MAX):
            yield _Batch(size, content)
            size = content = 0
        if not small:
            yield _Batch(frame.size, None)
            continue
        size += frame.size
        content += frame.content or 0
        if max(size, content) >= _BATCH:
            yield _Batch(size, content)
            size = content = 0
    if size:
        yield _Batch(size, content)


def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG_MAX)


def _unpacked(data: bytes, size: int) -> bytes:
    with _decompressor().stream_reader(data, read_across_frames=True) as reader:
        found = reader.read(size)
        if len(found) != size or reader.read(1):
            raise zstandard.ZstdError("a frame has another size than it states")
        return found


def _streamed(read: Read, size: int) -> Iterator[bytes]:
    source = _Part(read, size)
    with _decompressor().stream_reader(
        source,  # type: ignore[arg-type]  # only its read() is used
        read_size=_PIECE,
        read_across_frames=True,
    ) as reader:
        while piece := reader.read(_PIECE):
            yield piece
        while source.read(_PIECE):
            pass


class _Part:
    """The next `size` bytes of compressed data."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._left = size

    def read(self, count: int) -> bytes:
        data = self._read(min(count, self._left))
        self._left -= len(data)
        return data
