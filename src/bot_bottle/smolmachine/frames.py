"""Zstandard frames: compression, segments, and checks without decompression.

A segment is some frames and a skippable frame that pads them to a whole block of a file system and ends with
a CRC-32 of all before it: it can be checked by itself, and shared between files by a file system that can
share blocks.

Decompressors accept a stream that was truncated at the end of a block, so the frames themselves are checked
for completeness. Only headers are read: the data of a frame is skipped.

Source: RFC 8878, sections 3.1.1 (Zstandard frames, blocks) and 3.1.2 (skippable frames).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import zstandard

from bot_bottle.errors import ArtifactError
from bot_bottle.smolmachine.crc import crc32

WINDOW_LOG_MAX = 27  # smolvm refuses frames that ask for a larger window than 2**27 bytes

BLOCK = 4096  # bytes; a segment has a whole number of them

COMPRESSION = f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))} level 3"
"""What decides the bytes of a frame besides the data: stored frames are only reused where it is the same."""

SEGMENT_CRC = 0x2144DF1C
"""The CRC-32 of every segment: all data that is followed by its own CRC-32 has the same value."""

_LEVEL = 3  # as smolvm itself
_CLOSING = b"\x5b\x2a\x4d\x18"
_CLOSING_LEAST = 12  # bytes: its magic number and size, the checksum
_HEADER_MAX = 18
_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte of 0x50 to 0x5f
_BLOCK_HEADER = 3
_RLE, _RESERVED = 1, 3


class _Own(threading.local):
    compressor: zstandard.ZstdCompressor | None = None


_own = _Own()


def compress(data: bytes) -> bytes:
    """Return one frame. Any thread may call it."""
    if _own.compressor is None:
        _own.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return _own.compressor.compress(data)


def padding_frame(size: int, crc: int) -> bytes:
    """Return the skippable frame that makes a segment of frames of `size` bytes with the CRC-32 `crc`."""
    fill = -(size + _CLOSING_LEAST) % BLOCK
    frame = _CLOSING + (fill + 4).to_bytes(4, "little") + bytes(fill)
    return frame + crc32(frame, crc).to_bytes(4, "little")


def segment(data: bytes) -> bytes:
    """Compress to one frame and return a segment of it."""
    frame = compress(data)
    return frame + padding_frame(len(frame), crc32(frame))


def holds(made: bytes, size: int) -> bool:
    """Return whether a segment has one frame with `size` bytes of data."""
    try:
        return zstandard.get_frame_parameters(made).content_size == size
    except zstandard.ZstdError:
        return False


def is_segment(data: bytes) -> bool:
    """Return whether bytes are an undamaged segment."""
    return bool(data) and len(data) % BLOCK == 0 and crc32(data) == SEGMENT_CRC


class Frame(NamedTuple):
    """A frame's size in bytes, and how many bytes of data it states that it contains: None if it does not."""

    size: int
    content: int | None


def read_frames(pread: Callable[[int, int], bytes], size: int) -> Iterator[Frame]:
    """Yield the frames in `size` bytes, checked to be complete, with windows within smolvm's limit.

    `pread(count, offset)` returns bytes as os.pread does. Skippable frames contain nothing. Raises
    ArtifactError.
    """
    offset = 0
    while offset < size:
        head = pread(_HEADER_MAX, offset)
        if len(head) >= 8 and head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
            end, content = offset + 8 + int.from_bytes(head[4:8], "little"), 0
        else:
            end, content = _end_of_frame(pread, head, offset)
        if end > size:
            break
        yield Frame(end - offset, None if content == zstandard.CONTENTSIZE_UNKNOWN else content)
        offset = end
    if offset != size or not size:
        raise _bad("the compressed data is cut short")


def check_frames(pread: Callable[[int, int], bytes], size: int) -> int | None:
    """Check frames as `read_frames` does; return how many bytes of data they state that they contain.

    It is None if one of them does not.
    """
    total, says = 0, True
    for frame in read_frames(pread, size):
        says = says and frame.content is not None
        total += frame.content or 0
    return total if says else None


def _end_of_frame(pread: Callable[[int, int], bytes], head: bytes, offset: int) -> tuple[int, int]:
    """Return where a frame ends, and how many bytes of data it states that it contains."""
    try:
        frame = zstandard.get_frame_parameters(head)
        offset += zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise _bad(str(error)) from error
    if frame.window_size > 1 << WINDOW_LOG_MAX:
        raise _bad(f"a window of {frame.window_size} bytes is more than smolvm allows")
    if frame.dict_id:
        raise _bad("it was compressed with a dictionary")
    while True:
        raw = pread(_BLOCK_HEADER, offset)
        if len(raw) < _BLOCK_HEADER:
            raise _bad("the compressed data is cut short")
        block = int.from_bytes(raw, "little")
        last, kind, length = block & 1, block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise _bad("a compressed block is of an unknown type")
        offset += _BLOCK_HEADER + (1 if kind == _RLE else length)
        if last:
            return offset + (4 if frame.has_checksum else 0), frame.content_size


def _bad(why: str) -> ArtifactError:
    return ArtifactError("the artifact's assets are damaged", why=why)
