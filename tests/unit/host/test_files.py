"""Small private files: whole or not there, whatever a killed writer left."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot_bottle.host.files import write_private


def test_it_is_whole_and_private_whatever_was_left(tmp_path: Path) -> None:
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
