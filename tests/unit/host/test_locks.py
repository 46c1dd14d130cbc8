"""Locks on files that come and go: one holder at a time, and no file left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bot_bottle.host.locks import try_lock_file

BUSY = """
import os, sys
from pathlib import Path
from bot_bottle.host.locks import try_lock_file
lock, mark = map(Path, sys.argv[1:])
held = 0
while held < 200:
    with try_lock_file(lock) as free:
        if free:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another holds it too
            mark.unlink()
            held += 1
"""


def test_a_claim_is_one_holders_and_leaves_no_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with try_lock_file(lock) as first:
        assert first
        with try_lock_file(lock) as second:
            assert not second
        assert lock.exists()
    assert not lock.exists()


def test_many_claim_it_in_turn(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", BUSY, str(tmp_path / "lock"), str(tmp_path / "mark")]
    busy = [subprocess.Popen(argv) for _ in range(4)]
    assert [each.wait() for each in busy] == [0] * 4
    assert list(tmp_path.iterdir()) == []
