"""Parts of artifacts: found while all is as it was when they were listed, and not otherwise."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from tests.support.crafted import file, layer, saved
from tests.support.smolmachines import listed

from bot_bottle.cache.entry import list_path
from bot_bottle.image.archive import open_archive
from bot_bottle.pack.artifact import PackResult, pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.smolmachine.frames import is_segment
from bot_bottle.vm.guest_rootfs import Guest

LARGE = os.urandom(9_000_000)  # a file of three parts


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer([file("large", LARGE), file("small", b"small")])))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "smolmachines"
    path.mkdir()
    return path


def pack(archive: Path, out: Path, guest: Guest) -> PackResult:
    with open_archive(archive) as image, Parts(out.parent) as parts:
        return pack_native(image, flatten(image), guest, out, flatten_version=FLATTEN_VERSION, parts=parts)


def keys(archive: Path) -> list[str]:
    with open_archive(archive) as image:
        return [stretch.key() for stretch in flatten(image).stretches() if stretch.key]


def sound(folder: Path, archive: Path) -> list[bool]:
    """Tell for each part of the image whether it is found."""
    with Parts(folder) as parts:
        found = [parts.read(key) for key in keys(archive)]
        for part in found:
            if part is not None:
                assert is_segment(part.data)
                assert os.pread(part.fd, len(part.data), part.offset) == part.data
        return [part is not None for part in found]


def test_parts_are_found_where_they_are_listed(folder: Path, archive: Path, guest: Guest) -> None:
    one, two = folder / "1.smolmachine", folder / "2.smolmachine"
    made = pack(archive, one, guest)
    assert sound(folder, archive) == [True] * 4
    assert len(listed(list_path(one))) == 5  # and the guest files
    for offset, size in listed(list_path(one)).values():
        assert is_segment(one.read_bytes()[offset : offset + size])
    with Parts(folder) as parts:
        assert not parts.holds("another")
        assert parts.read("another") is None
    assert pack(archive, two, guest) == made
    assert one.read_bytes() == two.read_bytes()
    assert list_path(one).read_bytes() == list_path(two).read_bytes()


def test_an_artifact_elsewhere_has_no_list(tmp_path: Path, archive: Path, guest: Guest) -> None:
    """It is the cache's: nothing else is to appear beside a file that somebody asked for."""
    out = tmp_path / "mine.smolmachine"
    with open_archive(archive) as image:
        pack_native(image, flatten(image), guest, out, flatten_version=FLATTEN_VERSION)
    assert out.exists()
    assert not list_path(out).exists()


def test_a_part_that_is_damaged_is_not_found(folder: Path, archive: Path, guest: Guest) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    offset, size = sorted(listed(list_path(path)).values())[1]
    with path.open("r+b") as artifact:
        artifact.seek(offset + size // 2)
        artifact.write(b"damage")
    assert sound(folder, archive).count(True) == 3


@pytest.mark.parametrize("what", ["magic", "size", "checksum", "key", "offset", "length", "end"])
def test_a_list_that_is_damaged_is_not_believed(folder: Path, archive: Path, guest: Guest, what: str) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    at = {"magic": 0, "size": 8, "checksum": 16, "key": 20, "offset": 52, "length": 60, "end": -1}[what]
    data = bytearray(list_path(path).read_bytes())
    data[at] ^= 1
    list_path(path).write_bytes(data)
    assert sound(folder, archive) == [False] * 4


@pytest.mark.parametrize("length", [0, 1, 19, 20, 23, 24, 60, 67, 68, -45, -44, -1])
def test_a_list_that_is_cut_is_not_believed(folder: Path, archive: Path, guest: Guest, length: int) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    list_path(path).write_bytes(list_path(path).read_bytes()[:length])
    assert sound(folder, archive) == [False] * 4


@pytest.mark.parametrize("entry", [(1 << 62, 4096), (0, 0), (0, 1 << 31), (4096, 100)])
def test_a_list_that_lies_leads_nowhere(
    folder: Path, archive: Path, guest: Guest, entry: tuple[int, int]
) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    data = list_path(path).read_bytes()
    lies = b"".join(struct.pack("<32sQI", key, *entry) for key in listed(list_path(path)))
    data = data[:20] + lies
    list_path(path).write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    assert sound(folder, archive) == [False] * 4


def test_a_part_of_another_size_is_not_taken(folder: Path, archive: Path, guest: Guest) -> None:
    """The first segment of every artifact is sound: it has a header of its tar."""
    path = folder / "1.smolmachine"
    made = pack(archive, path, guest)
    data = list_path(path).read_bytes()
    data = data[:20] + b"".join(struct.pack("<32sQI", key, 0, 4096) for key in listed(list_path(path)))
    list_path(path).write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    assert sound(folder, archive) == [True] * 4
    assert pack(archive, folder / "2.smolmachine", guest) == made


@pytest.mark.parametrize("what", ["gone", "another", "cut", "folder", "link", "fifo"])
def test_a_list_of_another_artifact_is_not_believed(
    folder: Path, archive: Path, guest: Guest, tmp_path: Path, what: str
) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    path.rename(tmp_path / "elsewhere")
    if what == "another":
        other = tmp_path / "other.tar"
        other.write_bytes(saved(layer([file("large", LARGE), file("small", b"other")])))
        with open_archive(other) as image:
            pack_native(image, flatten(image), guest, path, flatten_version=FLATTEN_VERSION)
    elif what == "cut":
        shutil.copy(tmp_path / "elsewhere", path)
        os.truncate(path, path.stat().st_size - 1)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "fifo":
        os.mkfifo(path)
    assert sound(folder, archive) == [False] * 4


@pytest.mark.parametrize("what", ["folder", "link", "fifo"])
def test_what_is_no_list_is_not_read(
    folder: Path, archive: Path, guest: Guest, tmp_path: Path, what: str
) -> None:
    path = folder / "1.smolmachine"
    pack(archive, path, guest)
    listing = list_path(path)
    listing.rename(tmp_path / "elsewhere")
    if what == "folder":
        listing.mkdir()
    elif what == "link":
        listing.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(listing)
    assert sound(folder, archive) == [False] * 4


def test_a_list_that_cannot_be_written_costs_nothing_else(folder: Path, archive: Path, guest: Guest) -> None:
    path = folder / "1.smolmachine"
    list_path(path).mkdir()
    assert pack(archive, path, guest).size == path.stat().st_size
    assert sound(folder, archive) == [False] * 4
