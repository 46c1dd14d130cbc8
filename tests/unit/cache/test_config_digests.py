"""Config digests: found again, lost without harm, and never taken from what is not one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bot_bottle.cache import config_digests
from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.errors import CacheError
from bot_bottle.image.spec import Digest

DIGEST = Digest.of(b"config")


def print_of(number: int) -> str:
    return Digest.of(str(number).encode()).hex


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "config-digests"


def recorded(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if len(path.name) == 64}


def test_what_was_added_is_found(folder: Path) -> None:
    digests = ConfigDigests(folder)
    assert digests.find(print_of(1)) is None
    digests.add(print_of(1), DIGEST)
    assert ConfigDigests(folder).find(print_of(1)) == DIGEST
    assert digests.find(print_of(2)) is None
    digests.add(print_of(1), Digest.of(b"other"))
    assert digests.find(print_of(1)) == Digest.of(b"other")


def test_only_the_user_can_read_them(folder: Path) -> None:
    ConfigDigests(folder).add(print_of(1), DIGEST)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"sha256:", b"sha256:../../x", DIGEST.hex.encode(), b"\xff" * 71, b"x" * (1 << 20)],
)
def test_what_is_no_digest_is_not_found(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / print_of(1)).write_bytes(content)
    digests = ConfigDigests(folder)
    assert digests.find(print_of(1)) is None
    digests.add(print_of(1), DIGEST)
    assert digests.find(print_of(1)) == DIGEST


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_a_regular_file_is_read(folder: Path, tmp_path: Path, kind: str) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "foreign").write_text(f"{DIGEST}\n")
    place = folder / print_of(1)
    if kind == "link":
        place.symlink_to(tmp_path / "foreign")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    assert ConfigDigests(folder).find(print_of(1)) is None


def test_an_image_without_a_fingerprint_has_none(folder: Path) -> None:
    ConfigDigests(folder).add(print_of(1), DIGEST)
    assert ConfigDigests(folder).find("") is None


def test_the_older_half_goes_when_there_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_digests, "_MOST", 4)
    digests = ConfigDigests(folder)
    for number in range(5):
        for there in folder.iterdir() if folder.exists() else ():
            facts = there.stat()
            os.utime(there, (facts.st_atime, facts.st_mtime - 10))
        digests.add(print_of(number), DIGEST)
    assert recorded(folder) == {print_of(number) for number in (2, 3, 4)}


def test_clear_removes_all_and_nothing_else(folder: Path) -> None:
    digests = ConfigDigests(folder)
    digests.clear()  # none was ever recorded
    for number in range(3):
        digests.add(print_of(number), DIGEST)
    (folder / "notes.txt").write_text("mine\n")
    digests.clear()
    assert recorded(folder) == set()
    assert (folder / "notes.txt").read_text() == "mine\n"
    digests.add(print_of(1), DIGEST)
    assert digests.find(print_of(1)) == DIGEST


def test_a_folder_that_cannot_be_used_costs_no_more_than_an_export(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way\n")
    digests = ConfigDigests(folder)
    digests.add(print_of(1), DIGEST)
    assert digests.find(print_of(1)) is None
    with pytest.raises(CacheError, match="config-digests") as caught:
        digests.clear()
    assert caught.value.next_step


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    digests = ConfigDigests(small_disk)
    digests.add(print_of(1), DIGEST)
    with (small_disk / "rest").open("wb", buffering=0) as rest:
        try:
            while rest.write(bytes(4096)):
                pass
        except OSError:
            pass
    digests.add(print_of(2), DIGEST)
    assert digests.find(print_of(1)) == DIGEST
    assert digests.find(print_of(2)) is None


def test_processes_add_and_clear_side_by_side(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bot_bottle.cache.config_digests import ConfigDigests\n"
        "from bot_bottle.image.spec import Digest\n"
        "digests = ConfigDigests(Path(sys.argv[1]))\n"
        "for number in range(40):\n"
        "    digests.add(Digest.of(f'{sys.argv[2]}{number}'.encode()).hex, Digest.of(b'config'))\n"
        "    if number % 10 == 9 and sys.argv[2] == 'a': digests.clear()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, folder, name]) for name in "abc"]
    assert [each.wait(60) for each in running] == [0, 0, 0]
    left = {name: ConfigDigests(folder).find(name) for name in recorded(folder)}
    assert set(left.values()) <= {DIGEST}
