"""Zstandard frames, seen from outside: where each begins and ends, and how much memory it asks for.

Decompressors take a stream that was cut at a block's end for a whole one, so wholeness is told from the
frames themselves. Only headers are read: a frame's data is passed over.

Source: RFC 8878, sections 3.1.1 (Zstandard frames, blocks) and 3.1.2 (skippable frames).
"""

from __future__ import annotations

from collections.abc import Callable

import zstandard

from bot_bottle.errors import ArtifactError

WINDOW_LOG_MAX = 27  # smolvm refuses frames that ask for a larger window than 2**27 bytes

_HEADER_MAX = 18
_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte of 0x50 to 0x5f
_BLOCK_HEADER = 3
_RLE, _RESERVED = 1, 3


def check_frames(pread: Callable[[int, int], bytes], size: int) -> None:
    """Check that `size` bytes are whole frames one after another, none asking for too large a window.

    `pread(count, offset)` gives bytes as os.pread does. Raises ArtifactError.
    """
    offset = 0
    while offset < size:
        head = pread(_HEADER_MAX, offset)
        if len(head) >= 8 and head[1:4] == _SKIPPABLE and head[0] >> 4 == 5:
            offset += 8 + int.from_bytes(head[4:8], "little")
        else:
            offset = _end_of_frame(pread, head, offset)
    if offset != size or not size:
        raise _bad("the compressed data is cut short")


def _end_of_frame(pread: Callable[[int, int], bytes], head: bytes, offset: int) -> int:
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
            raise _bad("a compressed block is of a kind that is not known")
        offset += _BLOCK_HEADER + (1 if kind == _RLE else length)
        if last:
            return offset + (4 if frame.has_checksum else 0)


def _bad(why: str) -> ArtifactError:
    return ArtifactError("the artifact's assets are damaged", why=why)
