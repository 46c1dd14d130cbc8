"""The cache: found or made, damage found, records, and why a run would hit or miss."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.cache import find_or_make

from bot_bottle.cache.cache import Cache, Entry, Explanation, Key
from bot_bottle.cache.entry import record_path
from bot_bottle.errors import ArtifactError, CacheError, DiskFullError
from bot_bottle.image.spec import Digest
from bot_bottle.smolmachine.format import digest_of
from bot_bottle.structs import replace


class Use:
    """A cache as a command uses it: what was made, and what was said."""

    def __init__(self, cache: Cache, artifact: Path) -> None:
        self.cache, self.artifact = cache, artifact
        self.made = 0
        self.said: list[str] = []

    def __call__(self, key: Key, source: str = "/project") -> Entry:
        return find_or_make(self.cache, key, self.make, source=source, on_wait=self.said.append)

    def make(self, path: Path) -> None:
        self.made += 1
        shutil.copy(self.artifact, path)


@pytest.fixture
def use(cache: Cache, artifact: Path) -> Use:
    return Use(cache, artifact)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def age(entry: Entry, seconds: float) -> None:
    used = entry.last_used - seconds
    os.utime(record_path(entry.path), (used, used))


def test_made_once_then_found(use: Use, key: Key, artifact: Path) -> None:
    first, second = use(key), use(key)
    assert (use.made, first.hit, second.hit, use.said) == (1, False, True, [])
    assert first.path == use.cache.folder / key.name
    assert first.path.read_bytes() == artifact.read_bytes()
    assert (first.size, first.digest) == (artifact.stat().st_size, digest_of(artifact))
    assert replace(second, hit=False, last_used=0) == replace(first, last_used=0)
    assert second.last_used >= first.last_used


def test_only_the_user_can_read_it(use: Use, key: Key) -> None:
    use.cache.folder.mkdir(mode=0o755, parents=True)
    entry = use(key)
    assert mode(use.cache.folder) == 0o700
    assert {mode(path) for path in use.cache.folder.iterdir()} == {0o600}
    assert mode(entry.path) == 0o600


def test_another_key_is_another_artifact(use: Use, key: Key) -> None:
    use(key)
    assert not use(replace(key, smolvm_version="2")).hit
    assert len(use.cache.list()) == 2


def test_a_digest_that_is_known_is_taken(use: Use, key: Key) -> None:
    known = Digest.of(b"known")

    def make(path: Path) -> Digest:
        use.make(path)
        return known

    assert find_or_make(use.cache, key, make, source="", on_wait=print).digest == known


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-70] + b"x" + path.read_bytes()[-69:]),
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
    ],
    ids=["flipped", "cut", "empty"],
)
def test_a_damaged_artifact_is_made_again(use: Use, key: Key, damage: Callable[[Path], Any]) -> None:
    damage(use(key).path)
    assert use.cache.why(key, "/project").damage
    again = use(key)
    assert (use.made, again.hit) == (2, False)
    assert digest_of(again.path) == again.digest
    assert [key.name in line and "damaged" in line for line in use.said] == [True]
    assert use(key).hit


def test_damage_is_told_apart_from_waiting(use: Use, key: Key) -> None:
    os.truncate(use(key).path, 5)
    told: list[str] = []
    find_or_make(use.cache, key, use.make, source="", on_wait=use.said.append, on_damage=told.append)
    assert (len(told), use.said) == (1, [])


def test_a_link_in_an_artifacts_place_is_replaced_not_followed(use: Use, key: Key, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copy(use.artifact, mine)
    use.cache.folder.mkdir(parents=True)
    (use.cache.folder / key.name).symlink_to(mine)
    entry = use(key)
    assert not entry.hit
    assert not entry.path.is_symlink()
    assert mine.exists()


def test_a_folder_in_an_artifacts_place_is_an_error(use: Use, key: Key) -> None:
    (use.cache.folder / key.name).mkdir(parents=True)
    with pytest.raises(CacheError):
        use(key)
    assert os.listdir(use.cache.folder / key.name) == []  # noqa: PTH208


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"key": {}}',
        b"[" * 100_000,
        b"\xff",
        b" " * (2 << 20),
        b'{"key": 1, "digest": 2, "source": 3, "created": 1e999}',
    ],
)
def test_a_record_that_is_garbage_is_written_anew(use: Use, key: Key, record: bytes) -> None:
    entry = use(key)
    record_path(entry.path).write_bytes(record)
    assert use.cache.list() == ()
    found = use(key)
    assert (found.hit, use.made, found.digest) == (True, 1, entry.digest)
    assert [listed.path for listed in use.cache.list()] == [entry.path]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("created", 10**400),
        ("created", "now"),
        ("created", -1),
        ("created", None),
        ("digest", "md5:1"),
        ("digest", 1),
        ("source", ["x"]),
    ],
)
def test_a_record_with_a_bad_part_is_written_anew(use: Use, key: Key, part: str, value: Any) -> None:
    path = record_path(use(key).path)
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    assert use.cache.list() == ()
    assert use(key).hit
    assert len(use.cache.list()) == 1


def test_a_record_of_another_artifact_is_not_believed(use: Use, key: Key) -> None:
    other = use(replace(key, packer="smolvm"))
    entry = use(key)
    shutil.copy(record_path(other.path), record_path(entry.path))
    assert [listed.path for listed in use.cache.list()] == [other.path]
    assert use(key).key == key


def test_a_lost_record_or_a_linked_one_is_written_anew(use: Use, key: Key, tmp_path: Path) -> None:
    record = record_path(use(key).path)
    record.rename(tmp_path / "elsewhere")
    assert use(key, "/other").source == "/other"
    record.unlink()
    record.symlink_to(tmp_path / "elsewhere")
    assert use(key, "/third").source == "/third"
    assert json.loads((tmp_path / "elsewhere").read_text())["source"] == "/project"


def test_a_failing_maker_leaves_nothing(use: Use, key: Key) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        path.with_name("more").write_bytes(b"x")
        raise ArtifactError("no luck")

    with pytest.raises(ArtifactError, match="no luck"):
        find_or_make(use.cache, key, fail, source="", on_wait=print)
    assert [path.suffix for path in use.cache.folder.iterdir()] == [".lock"]
    assert use(key).path.exists()


@pytest.mark.parametrize("content", [b"", b"not an artifact" * 100, None])
def test_what_is_no_artifact_is_not_published(use: Use, key: Key, content: bytes | None) -> None:
    def make(path: Path) -> None:
        if content is not None:
            path.write_bytes(content)

    with pytest.raises(ArtifactError):
        find_or_make(use.cache, key, make, source="", on_wait=print)
    assert [path.suffix for path in use.cache.folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path, artifact: Path, key: Key) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError) as caught:
        Use(Cache(tmp_path / "file" / "cache"), artifact)(key)
    assert "BOT_BOTTLE_CACHE_DIR" in caught.value.next_step


def test_a_full_disk_leaves_nothing_half_made(small_disk: Path, artifact: Path, key: Key) -> None:
    use = Use(Cache(small_disk / "cache"), artifact)

    def fill(path: Path) -> None:
        use.make(path)
        with (small_disk / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    with pytest.raises((DiskFullError, OSError)):
        find_or_make(use.cache, key, fill, source="", on_wait=print)
    assert not list(use.cache.folder.glob("*.tmp"))
    assert use.cache.list() == ()
    (small_disk / "ballast").unlink()
    assert not use(key).hit


def test_a_disk_too_full_for_the_record_is_a_full_disk(small_disk: Path, artifact: Path, key: Key) -> None:
    use = Use(Cache(small_disk / "cache"), artifact)
    use.cache.folder.mkdir()

    def fill(path: Path) -> None:
        use.make(path)
        ballast = os.open(small_disk / "ballast", os.O_WRONLY | os.O_CREAT)
        free = os.statvfs(small_disk)
        os.posix_fallocate(ballast, 0, free.f_bavail * free.f_frsize)
        os.close(ballast)

    with pytest.raises(DiskFullError, match=str(use.cache.folder)):
        find_or_make(use.cache, key, fill, source="", on_wait=print)
    assert [path.suffix for path in use.cache.folder.iterdir()] == [".lock"]


def test_entries_are_listed_last_used_first(use: Use, key: Key) -> None:
    keys = [replace(key, smolvm_version=str(number)) for number in range(3)]
    entries = [use(each) for each in keys]
    for entry, seconds in zip(entries, (20, 30, 10), strict=True):
        age(entry, seconds)
    assert [entry.key for entry in use.cache.list()] == [keys[2], keys[0], keys[1]]
    use(keys[1])
    assert use.cache.list()[0].key == keys[1]


def test_an_empty_cache_lists_nothing_and_makes_nothing(cache: Cache) -> None:
    assert cache.list() == ()
    assert cache.verify() == ()
    assert not cache.prune(keep_bytes=0).removed
    assert not cache.folder.exists()


def test_verify_names_what_is_damaged(use: Use, key: Key) -> None:
    entries = [use(replace(key, smolvm_version=str(number))) for number in range(3)]
    told: list[int] = []
    assert use.cache.verify(told.append) == ()
    assert sum(told) == sum(entry.size - 64 for entry in entries)
    os.truncate(entries[0].path, 100)
    data = bytearray(entries[1].path.read_bytes())
    data[-56] = 2  # the version in the footer, which no checksum covers
    entries[1].path.write_bytes(data)
    damaged = {each.entry.path: each.why for each in use.cache.verify()}
    assert set(damaged) == {entries[0].path, entries[1].path}
    assert "SHA-256" in damaged[entries[1].path]


def test_why_reports_a_hit_or_a_miss_and_uses_nothing(use: Use, key: Key) -> None:
    config = f"\n  config digest of the image: {key.config_digest}"
    assert str(use.cache.why(key, "/project")) == f"miss: nothing cached for this yet{config}"
    use(key)
    assert use.cache.why(key, "/project").hit
    before = use.cache.list()
    assert str(use.cache.why(key, "/other")) == f"hit: the artifact is in the cache{config}"
    assert use.cache.list() == before  # asking is not using


def test_why_names_the_nearest_of_the_same_source(use: Use, key: Key) -> None:
    other_image = Digest.of(b"edited")
    use(key, "/project")
    far = use(replace(key, config_digest=other_image, smolvm_version="1", packer="smolvm"), "/project")
    use(replace(key, smolvm_version="9"), "/elsewhere")
    new = replace(key, config_digest=other_image)
    answer = use.cache.why(new, "/project")
    assert answer.nearest is not None
    assert (answer.hit, answer.nearest.key) == (False, key)
    assert str(answer).splitlines() == [
        "miss: the key has changed",
        f"  config digest: {key.config_digest} -> {other_image}",
        f"  config digest of the image: {other_image}",
    ]
    assert use.cache.why(replace(far.key, options=(("a", "b"),)), "/project").nearest == use.cache.list()[1]


def test_why_says_what_the_engine_calls_the_image(use: Use, key: Key) -> None:
    use(key)
    index = str(Digest.of(b"index"))
    found = replace(use.cache.why(key, "/project"), image_id=index)
    assert str(found).splitlines() == [
        "hit: the artifact is in the cache",
        f"  id of the image in its engine: {index}",
        f"  config digest of the image: {key.config_digest}",
    ]
    first, *rest = str(Explanation(hit=False, image_id=index)).splitlines()
    assert first.startswith("miss: ")
    assert "config digest is not known" in first
    assert rest == [f"  id of the image in its engine: {index}"]


def test_why_falls_back_to_the_same_image(use: Use, key: Key) -> None:
    use(key, "/project")
    answer = use.cache.why(replace(key, smolvm_version="9"), "/moved")
    assert [str(change) for change in answer.changes] == ["smolvm version: 1.32.2 -> 9"]
    assert use.cache.why(replace(key, config_digest=Digest.of(b"new")), "/moved").nearest is None


def test_holding_what_is_gone_says_what_to_do(use: Use, key: Key) -> None:
    entry = use(key)
    with entry.hold():
        pass
    use.cache.prune(keep_bytes=0)
    with pytest.raises(CacheError) as caught, entry.hold():
        raise AssertionError("held what is gone")
    assert "again" in caught.value.next_step


def test_what_another_program_removes_while_it_is_held_is_said_to_be_gone(use: Use, key: Key) -> None:
    entry = use(key)
    for path in (entry.path, entry.path.with_suffix(".erofs")):
        path.unlink(missing_ok=True)
        entry.path.touch()
        with pytest.raises(CacheError, match="no longer in the cache"), entry.hold():
            path.unlink(missing_ok=True)
            path.read_bytes()
    with pytest.raises(FileNotFoundError), entry.hold():
        entry.path.with_name("another").read_bytes()
