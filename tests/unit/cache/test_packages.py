"""Files of registries in the cache: found whole or not at all, bounded, by several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot_bottle.cache.packages import PackageStore, read_file

URL = "https://files.example.org:443/a.whl"
DATA = b"the bytes of a package " * 1000


def add(store: PackageStore, url: str = URL, data: bytes = DATA) -> None:
    recording = store.add(url, {"content-type": "x"})
    assert recording is not None
    for start in range(0, len(data), 1000):
        recording.write(data[start : start + 1000])
    recording.publish()


def read(store: PackageStore, url: str = URL) -> bytes | None:
    found = store.open(url)
    if found is None:
        return None
    file, record = found
    with file:
        assert record.headers == {"content-type": "x"}
        return b"".join(read_file(file, record.size))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_found_by_its_url_alone(tmp_path: Path) -> None:
    store = PackageStore(tmp_path / "new")
    assert read(store) is None
    add(store)
    assert read(store) == DATA
    assert read(store, URL.replace("a.whl", "b.whl")) is None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()] == [0o600]
    add(store, data=b"newer")
    assert read(store) == b"newer"
    assert [each.url for each in store.files()] == [URL]


def test_a_file_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    recording = store.add(URL, {})
    assert recording is not None
    recording.write(DATA)
    assert read(store) is None
    recording.close()
    recording.close()
    recording.publish()
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["byte", "cut", "grown", "empty", "record", "link", "other", "folder"])
def test_a_damaged_file_is_not_used(tmp_path: Path, damage: str) -> None:
    store = PackageStore(tmp_path)
    add(store)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "other":  # a sound file, of another URL
        add(store, "https://evil.example.net/", b"evil")
        other = next(each for each in tmp_path.iterdir() if each != path)
        other.replace(path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        changed = {
            "byte": b"T" + data[1:],
            "cut": data[1:],
            "grown": data[:1000] + data,
            "empty": b"",
            "record": data[:-8] + (1 << 60).to_bytes(8, "big"),
        }
        path.write_bytes(changed[damage])
    assert store.verify() == [path]
    assert read(store) is None
    if damage not in ("link", "folder"):
        assert not path.exists()
        add(store)
        assert read(store) == DATA
        assert store.verify() == []


def test_the_least_recently_used_files_make_room_for_others(tmp_path: Path) -> None:
    store = PackageStore(tmp_path, limit=64_000)
    for number in range(40):
        add(store, f"{URL}{number}", bytes(4000))
        age = time.time() - 1000 + number
        for path in tmp_path.iterdir():
            if path.stat().st_mtime > age + 500:
                os.utime(path, (age, age))
        read(store, f"{URL}0")  # in use all the time
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 64_000
    assert read(store, f"{URL}0") is not None
    assert read(store, f"{URL}1") is None
    assert read(store, f"{URL}39") is not None


def test_a_file_of_a_fourth_of_the_limit_is_not_stored(tmp_path: Path) -> None:
    store = PackageStore(tmp_path, limit=64_000)
    add(store, data=bytes(16_001))
    assert names(tmp_path) == []


def test_a_full_disk_ends_a_recording_and_nothing_else(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from bot_bottle.cache.packages import PackageStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
recording = PackageStore(Path(sys.argv[1])).add("https://a/", {})
for _ in range(4):
    recording.write(bytes(30_000))
recording.publish()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from bot_bottle.cache.packages import PackageStore
PackageStore(Path(sys.argv[1])).add("https://a/", {}).write(b"x" * 1000)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert len(names(tmp_path)) == 1
    store = PackageStore(tmp_path)
    recording = store.add(URL, {"content-type": "x"})
    assert recording is not None
    recording.write(DATA)
    PackageStore(tmp_path).prune(dry_run=True)
    assert len(names(tmp_path)) == 2
    PackageStore(tmp_path).prune()
    assert len(names(tmp_path)) == 1
    recording.publish()
    assert read(store) == DATA


def test_files_are_pruned_by_age_and_size(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    for name in ("old", "new"):
        add(store, f"{URL}{name}")
    old = store.files()[0]
    os.utime(old.path, (1, 1))
    assert store.prune(older_than=3600, dry_run=True).count == 1
    assert len(names(tmp_path)) == 2
    removed = store.prune(older_than=3600)
    assert (removed.count, removed.freed) == (1, old.size)
    assert store.prune(keep_bytes=0).count == 1
    assert names(tmp_path) == []


def test_a_reader_keeps_what_is_replaced_or_pruned_meanwhile(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    add(store)
    found = store.open(URL)
    assert found is not None
    add(store, data=b"newer")
    store.prune(keep_bytes=0)
    with found[0] as file:
        assert b"".join(read_file(file, found[1].size)) == DATA
