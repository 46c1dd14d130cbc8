"""What the kernel does for files, on whatever file system this is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bot_bottle.host.kernelio import begin_writing, copy_range

DATA = os.urandom(300_000)


@pytest.mark.parametrize(("offset", "size"), [(0, 300_000), (4096, 8192), (1, 2), (299_999, 1), (10, 0)])
def test_a_range_is_appended(tmp_path: Path, offset: int, size: int) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb", buffering=0) as target:
        target.write(b"before")
        done = copy_range(source.fileno(), offset, size, target.fileno())
    assert (tmp_path / "target").read_bytes() == b"before" + DATA[offset : offset + done]
    assert done == size


def test_there_is_no_more_than_the_source_has(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("wb", buffering=0) as target:
        assert copy_range(source.fileno(), 299_990, 100, target.fileno()) == 10


def test_what_is_no_file_is_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    reader, writer = os.pipe()
    with (tmp_path / "source").open("rb") as source:
        assert copy_range(source.fileno(), 0, 100, writer) == 0
    os.close(reader)
    os.close(writer)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    try:
        (place / "source").write_bytes(DATA[:50_000])
        with (
            (place / "source").open("rb") as source,
            (place / "target").open("wb", buffering=0) as target,
            pytest.raises(OSError, match="No space left"),
        ):
            copy_range(source.fileno(), 0, 50_000, target.fileno())
    finally:
        subprocess.run(["umount", place], check=True)


def test_writing_can_begin(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(DATA)
        assert begin_writing(file.fileno(), 0, len(DATA))
    assert (tmp_path / "file").read_bytes() == DATA
    assert not begin_writing(-1, 0, 1)
