"""CRC-32s of joined pieces, held against zlib's of all the bytes."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.smolmachine.crc import crc32_combine, crc_of
from bot_bottle.smolmachine.frames import SEGMENT_CRC, segment


@given(st.binary(max_size=200), st.binary(max_size=5000))
def test_combined_crc_is_that_of_the_joined_bytes(first: bytes, second: bytes) -> None:
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("size", [1, 511, 4096, 4_194_304, 10_000_001])
def test_combined_crc_is_that_of_zlib_for_any_size(size: int) -> None:
    first, second = os.urandom(100), os.urandom(size)
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), size) == zlib.crc32(first + second)


def test_combined_crc_is_right_beyond_four_gigabytes() -> None:
    """In two steps, or in one."""
    at_once = crc32_combine(1, 0, 5 << 30)
    assert crc32_combine(crc32_combine(1, 0, 2 << 30), 0, 3 << 30) == at_once


@pytest.mark.parametrize("size", [0, 1, 4084, 100_000])
def test_every_segment_has_the_same_crc(size: int) -> None:
    assert zlib.crc32(segment(os.urandom(size))) == SEGMENT_CRC


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (40 << 20) + 7, 99_999_999])
def test_crc_of_a_file_read_by_several_threads_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    data = os.urandom(1 << 20) * (size // (1 << 20) + 1)
    path.write_bytes(data)
    with path.open("rb") as file:
        assert crc_of(file.fileno(), size) == zlib.crc32(memoryview(data)[:size])


def test_of_a_file_that_has_become_shorter_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(50 << 20)
    path.write_bytes(data[:-1000])
    with path.open("rb") as file:
        assert crc_of(file.fileno(), len(data)) != zlib.crc32(data)
