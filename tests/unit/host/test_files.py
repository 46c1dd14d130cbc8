"""Files: whole or not there whatever a killed writer left, and what the kernel does for them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot_bottle.host.files import (
    copy_range,
    disk_full,
    is_published,
    publish_dir,
    replace_file,
    start_writeback,
    write_private,
)


def test_a_private_file_is_whole_and_private_whatever_was_left(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        (tmp_path / "partial").write_text("what a killed writer left, which is longer")
        write_private(tmp_path / "file", "new")
    finally:
        os.umask(old)
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "partial").exists()
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_one_of_many_writers_is_the_last(tmp_path: Path) -> None:
    texts = [str(number) * 10_000 for number in range(8)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda text: write_private(tmp_path / "file", text), texts))
    assert (tmp_path / "file").read_text() in texts


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "partial").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        write_private(tmp_path / "file", "new")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "partial").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"new", tmp_path / "partial")
    assert (tmp_path / "file").read_bytes() == b"old"
    replace_file(tmp_path / "file", b"new", tmp_path / "part", 0o644)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "part").exists()


def test_only_a_full_disk_or_quota_is_a_full_disk() -> None:
    assert disk_full(OSError(errno.ENOSPC, "full"))
    assert disk_full(OSError(errno.EDQUOT, "quota"))
    assert not disk_full(OSError(errno.EACCES, "denied"))
    assert not disk_full(ValueError())


def test_a_folder_is_published_whole_with_its_stamp(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "folder.partial" / "left").touch()
    assert not is_published(folder, "1")
    with publish_dir(folder, "1") as partial:
        (partial / "file").write_text("one")
    assert is_published(folder, "1")
    assert sorted(path.name for path in folder.iterdir()) == ["file", "stamp"]
    with pytest.raises(ZeroDivisionError), publish_dir(folder, "2") as partial:
        raise ZeroDivisionError
    assert is_published(folder, "1")
    assert not partial.exists()
    with publish_dir(folder, "2") as partial:
        pass
    assert is_published(folder, "2")
    assert not (folder / "file").exists()


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


@pytest.mark.root
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


def test_writeback_of_a_range_begins_where_it_can(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(DATA)
        assert start_writeback(file.fileno(), 0, len(DATA))
    assert (tmp_path / "file").read_bytes() == DATA
    assert not start_writeback(-1, 0, 1)
