"""Frames decompressed by threads: the same bytes in the same order, for frames of every kind."""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bot_bottle.errors import ArtifactError
from bot_bottle.smolmachine.frames import read_frames
from bot_bottle.smolmachine.unpack import decompress


def unpack(data: bytes) -> Iterator[bytes]:
    frames = read_frames(lambda count, at: data[at : at + count], len(data))
    return decompress(io.BytesIO(data).read, frames)


def stated(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def unstated(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(data)


def streamed(data: bytes) -> bytes:
    out = zstandard.ZstdCompressor(level=1).compressobj()
    return out.compress(data) + out.flush()


def skippable(size: int) -> bytes:
    return struct.pack("<II", 0x184D2A53, size) + bytes(size)


SIZES = [0, 1, 100, 70_000, 3_000_000]
PARTS = st.tuples(st.sampled_from([stated, unstated, streamed]), st.sampled_from(SIZES), st.integers(0, 20))


@settings(max_examples=40)
@given(st.lists(PARTS, min_size=1, max_size=12))
def test_frames_of_every_kind_are_in_order(parts: list[tuple[object, int, int]]) -> None:
    data = wanted = b""
    for number, (pack, size, skip) in enumerate(parts):
        content = bytes([number + 1]) * size
        wanted += content
        data += pack(content) + skippable(skip) * (skip % 3)  # type: ignore[operator]
    assert b"".join(unpack(data)) == wanted


def test_many_small_frames_are_joined() -> None:
    frames = [stated(b"%06d" % number) for number in range(20_000)]
    pieces = list(unpack(stated(bytes(5 << 20)) + b"".join(frames)))
    assert b"".join(pieces[1:]) == b"".join(b"%06d" % number for number in range(20_000))
    assert len(pieces) == 2


@pytest.mark.parametrize("pack", [stated, streamed])
def test_large_frames_come_in_bounded_pieces(pack: object) -> None:
    data = pack(bytes(100 << 20))  # type: ignore[operator]
    sizes = [len(piece) for piece in unpack(stated(b"first") + data + stated(b"last"))]
    assert sum(sizes) == (100 << 20) + 9
    assert max(sizes) <= 16 << 20


@pytest.mark.parametrize("size", [0, 99, 101, 1 << 40])
def test_a_frame_that_states_another_size_is_damaged(size: int) -> None:
    data = stated(bytes(300))
    assert data[4] & 0xC0 == 0x40  # two bytes of size, 256 less than it (RFC 8878, 3.1.1.1.4)
    changed = data[:4] + bytes([data[4] | 0xC0]) + struct.pack("<Q", size) + data[7:]
    for before in (b"", stated(b"first"), stated(bytes(5 << 20))):  # alone, with others, in a thread
        with pytest.raises((zstandard.ZstdError, ArtifactError)):
            list(unpack(before + changed))


def test_a_flipped_bit_in_any_frame_is_damage_or_other_bytes() -> None:
    frames = [zstandard.ZstdCompressor(write_checksum=True).compress(os.urandom(5 << 20)) for _ in range(4)]
    data = bytearray(b"".join(frames))
    data[len(data) // 2 + 1000] ^= 1
    with pytest.raises(zstandard.ZstdError):
        list(unpack(bytes(data)))


def test_nothing_runs_on_after_it_is_closed() -> None:
    pieces = unpack(b"".join(stated(os.urandom(5 << 20)) for _ in range(6)))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decompress")]
