"""The writable disk: for e2fsck a clean file system of its size, with the folders that were asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bot_bottle.vm.direct.storage import crc16, has_copy, write_storage

FOLDERS = {"upper": 0o755, "tmp": 0o1777}
MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    "size", [64 * MIB, 128 * MIB, 129 * MIB, 131 * MIB, 200 * MIB, GIB + 4096 + 1, 20 * GIB, 300 * GIB]
)
def test_a_disk_of_any_size_is_clean(tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk"
    write_storage(disk, size, FOLDERS)
    checked = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert size - 128 * MIB < disk.stat().st_size <= size
    assert disk.stat().st_blocks * 512 <= max(256 << 10, size // 100_000), "it is sparse"
    assert disk.stat().st_mode & 0o777 == 0o600


def test_the_folders_have_their_modes_and_belong_to_root(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write_storage(disk, 64 * MIB, FOLDERS)
    shown = subprocess.run(["debugfs", "-R", "ls -l /", disk], capture_output=True, text=True, check=True)
    rows = {line.split()[-1]: line.split() for line in shown.stdout.splitlines() if line.strip()}
    assert rows["upper"][1] == "40755"
    assert rows["tmp"][1] == "41777"
    assert {rows[name][3] for name in FOLDERS} == {"0"}


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too small"):
        write_storage(tmp_path / "disk", 1 * MIB, FOLDERS)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("mine")
    with pytest.raises(FileExistsError):
        write_storage(tmp_path / "disk", 64 * MIB, FOLDERS)


def test_the_groups_with_a_copy_are_those_of_sparse_super() -> None:
    assert [group for group in range(130) if has_copy(group)] == [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]


def test_the_checksum_is_the_one_of_the_catalogue() -> None:
    assert crc16(b"123456789") == 0x4B37  # CRC-16/MODBUS, which has the same parameters
