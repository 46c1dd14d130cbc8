"""What is removed from the cache, and what is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.support.cache import find_or_make

from bot_bottle.cache.cache import Cache, Entry, Key
from bot_bottle.cache.entry import record_path
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.structs import replace

DAY = 86400.0


@pytest.fixture
def entries(cache: Cache, artifact: Path, key: Key) -> list[Entry]:
    """Four entries of one size, last used 4, 3, 2 and 1 days ago."""

    def make(path: Path) -> None:
        shutil.copy(artifact, path)

    made = []
    for days in (4, 3, 2, 1):
        entry = find_or_make(
            cache,
            replace(key, smolvm_version=str(days)),
            make,
            source="/project",
            on_wait=print,
        )
        used = entry.last_used - days * DAY
        os.utime(record_path(entry.path), (used, used))
        made.append(entry)
    return made


def names(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def paths(found: tuple[Entry, ...]) -> list[Path]:
    return [entry.path for entry in found]


def test_without_a_limit_nothing_is_removed(cache: Cache, entries: list[Entry]) -> None:
    before = names(cache)
    pruned = cache.prune()
    assert (pruned.removed, pruned.leftovers, pruned.freed) == ((), (), 0)
    assert names(cache) == before


def test_the_least_recently_used_go_first(cache: Cache, entries: list[Entry]) -> None:
    size = entries[0].size
    would = cache.prune(keep_bytes=2 * size + 1, dry_run=True)
    assert len(cache.list()) == 4
    pruned = cache.prune(keep_bytes=2 * size + 1)
    assert paths(pruned.removed) == paths(would.removed) == paths(tuple(entries[:2]))
    assert pruned.freed == 2 * size
    assert paths(cache.list()) == [entries[3].path, entries[2].path]
    assert {name.partition(".")[0] for name in names(cache)} == {entry.path.stem for entry in entries[2:]}


def test_prune_removes_artifacts_older_than_the_limit(cache: Cache, entries: list[Entry]) -> None:
    assert paths(cache.prune(older_than=2.5 * DAY).removed) == paths(tuple(entries[:2]))
    assert len(cache.list()) == 2


def test_prune_holds_both_limits(cache: Cache, entries: list[Entry]) -> None:
    pruned = cache.prune(older_than=3.5 * DAY, keep_bytes=entries[0].size)
    assert paths(pruned.removed) == paths(tuple(entries[:3]))


def test_what_is_in_use_stays(cache: Cache, entries: list[Entry]) -> None:
    with entries[0].hold(), entries[0].hold(), entries[2].hold():
        dry = cache.prune(keep_bytes=0, dry_run=True)
        pruned = cache.prune(keep_bytes=0)
        assert paths(pruned.in_use) == paths(dry.in_use) == [entries[0].path, entries[2].path]
        assert paths(pruned.removed) == paths(dry.removed) == [entries[1].path, entries[3].path]
        assert entries[0].path.exists()
    assert len(cache.prune(keep_bytes=0).removed) == 2
    assert names(cache) == set()


def test_leftovers_go_and_foreign_files_stay(cache: Cache, entries: list[Entry], tmp_path: Path) -> None:
    entry, stem = entries[0], "0" * 16 + "-" + "1" * 16
    shutil.rmtree(cache.folder / "x", ignore_errors=True)
    leftovers = {f"{entry.path.stem}.abc.tmp", f"{stem}.json", f"{stem}.lock"}
    (cache.folder / f"{entry.path.stem}.abc.tmp").mkdir()
    (cache.folder / f"{entry.path.stem}.abc.tmp" / "link").symlink_to(tmp_path)
    (cache.folder / f"{stem}.json").write_text("{}")
    (cache.folder / f"{stem}.lock").write_text("")
    (cache.folder / "notes.txt").write_text("mine")
    (cache.folder / "sub").mkdir()
    (cache.folder / f"{stem}.file.tmp").write_text("a file, which the cache would not make")
    (cache.folder / "a-link").symlink_to(tmp_path)
    (cache.folder / f"{'2' * 16}-{stem[:16]}.json").symlink_to(tmp_path / "nowhere")
    (cache.folder / f"{'3' * 16}-{stem[:16]}.abc.tmp").symlink_to(tmp_path)
    before = names(cache)
    assert set(cache.prune(dry_run=True).leftovers) == leftovers
    assert names(cache) == before
    assert set(cache.prune().leftovers) == leftovers
    assert names(cache) == before - leftovers
    assert tmp_path.exists()
    assert len(cache.list()) == 4


def test_an_artifact_without_a_record_is_a_leftover(cache: Cache, entries: list[Entry]) -> None:
    record_path(entries[1].path).unlink()
    with entries[1].hold():
        assert cache.prune().leftovers == ()
    assert set(cache.prune().leftovers) == {entries[1].path.name, f"{entries[1].path.stem}.lock"}
    assert not entries[1].path.exists()


def test_what_is_being_made_is_left_alone(cache: Cache, key: Key) -> None:
    cache.folder.mkdir(parents=True)
    scrap = cache.folder / f"{key.stem}.abc.tmp"
    scrap.mkdir()
    (cache.folder / f"{key.stem}.json").write_text("{}")
    with exclusive_lock(cache.folder / f"{key.stem}.lock", lambda: None):
        assert cache.prune(keep_bytes=0).leftovers == ()
        assert scrap.exists()
    assert len(cache.prune().leftovers) == 3
    assert names(cache) == set()
