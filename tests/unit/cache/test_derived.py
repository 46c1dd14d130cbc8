"""Files made from an artifact: made once, trusted, found damaged, and removed with the artifact."""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.cache import find_or_make

from bot_bottle.cache import derived
from bot_bottle.cache.cache import Cache, Entry, Key
from bot_bottle.cache.derived import derived_file
from bot_bottle.cache.entry import sum_path
from bot_bottle.errors import ArtifactError, DiskFullError
from bot_bottle.host.locks import exclusive_lock

CONTENT = os.urandom(100_000)


class Maker:
    """Makes a file, and counts how often."""

    def __init__(self) -> None:
        self.count = 0
        self.notes: list[str] = []

    def __call__(self, path: Path) -> None:
        self.count += 1
        path.write_bytes(CONTENT)

    def file(self, artifact: Path, version: int = 1) -> Path:
        return derived_file(artifact, ".erofs", self, self.notes.append, version=version)


def made_from(artifact: Path, cache: Cache, key: Key) -> Entry:
    def make(path: Path) -> None:
        shutil.copy(artifact, path)

    return find_or_make(cache, key, make, source="/project", on_wait=print)


@pytest.fixture
def entry(cache: Cache, artifact: Path, key: Key) -> Entry:
    return made_from(artifact, cache, key)


@pytest.fixture
def maker() -> Maker:
    return Maker()


def left(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if ".lock" not in path.name)


def test_it_is_made_once_and_private(cache: Cache, entry: Entry, maker: Maker) -> None:
    path = maker.file(entry.path)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert path == entry.path.with_suffix(".erofs") == maker.file(entry.path)
    assert (maker.count, maker.notes) == (1, [])
    stem = entry.path.stem
    names = [f"{stem}{suffix}" for suffix in (".erofs", ".erofs-sum", ".json", ".smolmachine")]
    assert left(cache) == names


def test_what_is_as_it_was_written_is_not_read(
    entry: Entry, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.file(entry.path)
    monkeypatch.delattr(derived, "crc_of")
    maker.file(entry.path)
    assert maker.count == 1


def touch(path: Path) -> None:
    os.utime(path)


def copy(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(path.read_bytes())
    path.with_suffix(".copy").replace(path)


@pytest.mark.parametrize("change", [touch, copy])
def test_what_was_touched_or_copied_is_read_once(
    entry: Entry, maker: Maker, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(maker.file(entry.path))
    assert maker.file(entry.path).read_bytes() == CONTENT
    monkeypatch.delattr(derived, "crc_of")
    maker.file(entry.path)
    assert (maker.count, maker.notes) == (1, [])


def flip(path: Path) -> None:
    data = bytearray(CONTENT)
    data[77] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, 50_000)


def become_link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def lose_record(path: Path) -> None:
    sum_path(path).unlink()


def spoil_record(path: Path) -> None:
    sum_path(path).write_text('{"version": [1]}')


@pytest.mark.parametrize("change", [flip, cut, become_link, lose_record, spoil_record])
def test_a_damaged_one_is_made_again_with_a_note(
    entry: Entry, maker: Maker, change: Callable[[Path], None]
) -> None:
    change(maker.file(entry.path))
    path = maker.file(entry.path)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert maker.count == 2
    [note] = maker.notes
    assert f"{path.name} is damaged and will be made again: " in note


def test_another_version_or_artifact_makes_it_again(entry: Entry, maker: Maker) -> None:
    maker.file(entry.path)
    maker.file(entry.path, version=2)
    maker.file(entry.path, version=2)
    assert (maker.count, maker.notes) == (2, [])


def test_a_failure_leaves_nothing(cache: Cache, entry: Entry) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ArtifactError("damaged")

    before = left(cache)
    with pytest.raises(ArtifactError):
        derived_file(entry.path, ".erofs", fail, print)
    assert left(cache) == before


def test_a_full_disk_is_explained(small_disk: Path, artifact: Path, key: Key) -> None:
    cache = Cache(small_disk / "cache")
    entry = made_from(artifact, cache, key)

    def fill(path: Path) -> None:
        path.write_bytes(bytes(2 << 20))

    before = left(cache)
    with pytest.raises(DiskFullError, match="no room left for the root image"):
        derived_file(entry.path, ".erofs", fill, print)
    assert left(cache) == before


def test_two_at_once_make_it_once(entry: Entry, maker: Maker) -> None:
    with exclusive_lock(entry.path.with_suffix(".lock"), lambda: None):
        waiting = threading.Event()

        def on_wait(note: str) -> None:
            maker.notes.append(note)
            waiting.set()

        given = (entry.path, ".erofs", maker, on_wait)
        threads = [threading.Thread(target=derived_file, args=given) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert waiting.wait(60)
    for thread in threads:
        thread.join(60)
    assert maker.count == 1
    assert "waiting for another bot-bottle" in maker.notes[0]


def test_it_counts_and_goes_with_its_artifact(cache: Cache, entry: Entry, maker: Maker) -> None:
    maker.file(entry.path)
    [listed] = cache.list()
    assert listed.derived >= 100_000
    assert listed.total == listed.size + listed.derived
    assert not cache.prune(keep_bytes=listed.total).removed
    pruned = cache.prune(keep_bytes=listed.total - 1)
    assert pruned.freed == listed.total
    assert list(cache.folder.iterdir()) == []


def test_it_goes_with_an_artifact_that_another_version_removed(
    cache: Cache, entry: Entry, maker: Maker
) -> None:
    path = maker.file(entry.path)
    for other in (entry.path, entry.path.with_suffix(".json")):
        other.unlink()
    assert path.name in cache.prune().leftovers
    assert list(cache.folder.iterdir()) == []


def test_it_stays_while_its_artifact_is_in_use(cache: Cache, entry: Entry, maker: Maker) -> None:
    path = maker.file(entry.path)
    with entry.hold():
        assert cache.prune(keep_bytes=0).in_use
    assert path.read_bytes() == CONTENT


def test_verify_finds_a_damaged_one_that_looks_as_it_was_written(
    cache: Cache, entry: Entry, maker: Maker
) -> None:
    path = maker.file(entry.path)
    assert cache.verify() == ()
    known = sum_path(path).read_text().replace(f'"crc": {crc(path)}', '"crc": 1')
    sum_path(path).write_text(known)
    [found] = cache.verify()
    assert f"{path.name} is damaged" in found.why
    assert not path.exists()
    assert cache.verify() == ()
    maker.file(entry.path)
    assert maker.count == 2


def crc(path: Path) -> int:
    return zlib.crc32(path.read_bytes())


def test_it_goes_when_its_artifact_is_made_again(
    cache: Cache, entry: Entry, maker: Maker, key: Key, artifact: Path
) -> None:
    path = maker.file(entry.path)
    entry.path.write_bytes(b"damaged")
    made_from(artifact, cache, key)
    assert not path.exists()
