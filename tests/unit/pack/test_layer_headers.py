"""The store of frames: what is kept comes back whole or not at all, whatever happened to it meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot_bottle.errors import CacheError, ImageError
from bot_bottle.pack.layer_headers import HeaderStore, prune
from bot_bottle.smolmachine.frames import BLOCK, check_frames, holds, is_segment, segment

DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> HeaderStore:
    (tmp_path / "scratch").mkdir()
    made = HeaderStore(tmp_path / "frames", tmp_path / "scratch")
    with made.using():
        pass
    return made


def keep(store: HeaderStore, key: str, data: bytes) -> None:
    store.keep(key, data)
    store.publish()


def files(store: HeaderStore) -> list[Path]:
    return sorted(path for path in store.folder.iterdir() if path.name != "lock")


@pytest.mark.parametrize("size", [0, 1, 4000, 4084, 4085, 5_000_000])
def test_a_segment_is_whole_blocks_of_frames(size: int) -> None:
    made = segment(os.urandom(size))
    assert len(made) % BLOCK == 0
    assert is_segment(made)
    assert holds(made, size)
    assert not holds(made, size + 1)
    check_frames(lambda count, at: made[at : at + count], len(made))


def test_what_is_kept_comes_back(store: HeaderStore) -> None:
    one, two = segment(b"one"), segment(b"two" * 100_000)
    assert not store.holds("a")
    assert store.read("a") is None
    keep(store, "a", one)
    keep(store, "b", two)
    keep(store, "b", two)  # as another process may have done
    assert store.holds("a")
    assert (store.read("a"), store.read("b"), store.read("c")) == (one, two, None)
    assert len(files(store)) == 2
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_what_is_not_published_is_not_found(store: HeaderStore) -> None:
    store.keep("a", segment(b"a"))
    assert not store.holds("a")
    assert not files(store)
    store.publish()
    assert store.holds("a")


def test_what_was_not_published_is_forgotten(store: HeaderStore, tmp_path: Path) -> None:
    with pytest.raises(ImageError), store.using():
        store.keep("a", segment(b"a"))
        raise ImageError("its layer was not what it should be")
    store.publish()
    assert not store.holds("a")
    assert not list((tmp_path / "scratch").iterdir())


def test_damage_is_noticed_wherever_it_is(store: HeaderStore) -> None:
    good = segment(b"something" * 1000)
    for at in range(0, len(good), 7):
        keep(store, "a", good)
        [path] = files(store)
        data = bytearray(good)
        data[at] ^= 0x10
        path.write_bytes(data)
        assert store.read("a") is None
        assert not store.holds("a")
    for length in (0, 1, BLOCK - 1, len(good) - BLOCK, len(good) - 1):
        keep(store, "a", good)
        os.truncate(files(store)[0], length)
        assert store.read("a") is None
    assert not files(store)


@pytest.mark.parametrize("what", ["folder", "link", "fifo"])
def test_what_is_no_file_of_ours_is_not_read(store: HeaderStore, tmp_path: Path, what: str) -> None:
    keep(store, "a", segment(b"a"))
    [path] = files(store)
    path.rename(tmp_path / "elsewhere")
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    assert store.read("a") is None


def test_a_full_disk_keeps_nothing_and_costs_nothing(small_disk: Path) -> None:
    (small_disk / "scratch").mkdir()
    store = HeaderStore(small_disk / "frames", small_disk / "scratch")
    with store.using():
        keep(store, "small", segment(b"x"))
        keep(store, "large", segment(os.urandom(2_000_000)))
        keep(store, "later", segment(b"y"))
    assert store.holds("small")
    assert not store.holds("large")
    assert not store.holds("later")
    assert not list((small_disk / "scratch").iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = HeaderStore(tmp_path / "file" / "frames", tmp_path)
    with pytest.raises(CacheError, match="cannot use the cache"), store.using():
        pass


def test_prune_takes_the_least_recently_used(store: HeaderStore) -> None:
    for age, key in enumerate("abcd"):
        keep(store, key, segment(key.encode()))
        [new] = [path for path in files(store) if path.stat().st_mtime > time.time() - DAY / 2]
        os.utime(new, (0, time.time() - (10 - age) * DAY))
    (store.folder / "notes").write_text("somebody's own")
    assert store.read("a") is not None  # and so it is the last used
    would = prune(store.folder, keep_bytes=2 * BLOCK, dry_run=True)
    assert (would.count, would.freed) == (2, 2 * BLOCK)
    assert all(map(store.holds, "abcd"))
    assert prune(store.folder, keep_bytes=2 * BLOCK) == would
    assert [store.holds(key) for key in "abcd"] == [True, False, False, True]
    assert prune(store.folder, older_than=5 * DAY).count == 1
    assert [store.holds(key) for key in "abcd"] == [True, False, False, False]
    assert prune(store.folder).count == 0
    assert prune(store.folder, keep_bytes=0).count == 1
    assert {path.name for path in store.folder.iterdir()} == {"lock", "notes"}
    assert prune(store.folder / "missing", keep_bytes=0).count == 0


def test_what_is_in_use_is_not_pruned(store: HeaderStore) -> None:
    keep(store, "a", segment(b"a"))
    with store.using():
        done = prune(store.folder, keep_bytes=0)
        assert done.in_use
        assert done.count == 0
        assert store.holds("a")
    assert prune(store.folder, keep_bytes=0).count == 1


def test_it_comes_down_to_its_limit_by_itself(store: HeaderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot_bottle.pack.layer_headers.LIMIT", 3 * BLOCK)
    with store.using():
        for number in range(10):
            before = set(files(store))
            keep(store, str(number), segment(str(number).encode()))
            for new in set(files(store)) - before:
                os.utime(new, (0, time.time() - 100 + number))  # so that their order can be told
    assert [store.holds(str(number)) for number in range(10)] == [False] * 7 + [True] * 3


WRITER = """
import os, sys
from pathlib import Path
from bot_bottle.smolmachine.frames import segment
from bot_bottle.pack.layer_headers import HeaderStore
scratch = Path(sys.argv[2]) / str(os.getpid())
scratch.mkdir()
store = HeaderStore(Path(sys.argv[1]), scratch)
made = {str(n): segment(bytes([n]) * 3_000_000 + os.urandom(300_000)[:n]) for n in range(20)}
with store.using():
    while True:
        for key in made:
            store.keep(key, made[key])
            store.publish()
            assert store.read(key) is not None
            print("stored", flush=True)
"""


def test_writers_killed_at_any_time_leave_whole_segments(store: HeaderStore, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(store.folder), str(tmp_path / "scratch")]
    for _ in range(3):
        writers = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]
        try:
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"stored\n"
            assert all(writer.poll() is None for writer in writers)
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()
        assert files(store)
        assert all(is_segment(path.read_bytes()) for path in files(store))
    assert not prune(store.folder, keep_bytes=0).in_use
