"""Sizes as people write them, and free memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_bottle.host.sizes import available_memory, parse_disk_size, parse_memory_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("17b", 17),
        (" 512k ", 512 << 10),
        ("512m", 512 << 20),
        ("2G", 2 << 30),
        ("2gb", None),
        ("2 g", None),
        ("-1", None),
        ("1.5g", None),
        ("", None),
        ("9" * 19, None),
    ],
)
def test_memory_counts_in_units_of_1024(text: str, size: int | None) -> None:
    assert parse_memory_size(text) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17b", 17),
        ("500kB", 500_000),
        ("500 MB", 500_000_000),
        ("20g", 20_000_000_000),
        ("1TB", 1_000_000_000_000),
        ("20GiB", None),
        ("1.5GB", None),
        ("", None),
    ],
)
def test_a_disk_counts_in_units_of_1000(text: str, size: int | None) -> None:
    assert parse_disk_size(text) == size


def test_free_memory_is_in_bytes_and_unknown_without_its_line(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_memory(meminfo) is None
    meminfo.write_text("MemFree: 1 kB\n")
    assert available_memory(meminfo) is None
    meminfo.write_text("MemFree:        1 kB\nMemAvailable:   2048 kB\n")
    assert available_memory(meminfo) == 2 << 20
