"""Bottles by name: what `stop` holds to be the end of one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bot_bottle.bottle import manage, names
from bot_bottle.errors import ReceiptError
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock

# a bottle without an engine: its name goes at the first SIGTERM, its process one second later
HOLDER = """
import signal, time
from bot_bottle.bottle import names; from bot_bottle.bottle import records
from bot_bottle.host.progress import Progress
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with names.lock_name("blue"), records.recorded("blue", Progress()):
    print("there", flush=True)
    while not told:
        time.sleep(0.01)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(1)
"""


def test_stop_waits_for_the_process_and_not_for_the_name_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "there\n"
            assert manage.stop("blue", patience=30)
            assert holder.poll() == 0
        finally:
            holder.kill()
    assert not manage.stop("blue", patience=30)


def test_stop_of_what_has_never_been_says_so() -> None:
    with pytest.raises(ReceiptError, match="no bottle named blue"):
        manage.stop("blue", patience=0)


def test_prune_removes_the_names_of_killed_bottles_and_of_no_other() -> None:
    """As of one that was killed before it had recorded anything."""
    held = paths.runs_dir() / "names"
    with names.lock_name("blue"):
        (held / "red").touch()
        assert list(manage.prune()) == []
        assert [path.name for path in held.iterdir()] == ["blue"]


def test_prune_removes_what_a_killed_command_left_in_the_cache() -> None:
    """As of one that was killed while it packed."""
    stem = f"{'0' * 16}-{'1' * 16}"
    half, held = (paths.artifacts_dir() / f"{stem[:-1]}{each}.abc.tmp" for each in "12")
    half.mkdir(parents=True)
    held.mkdir()
    with exclusive_lock(paths.artifacts_dir() / f"{stem[:-1]}2.lock", lambda: None):
        assert list(manage.prune(dry_run=True)) == []
        assert half.exists()
        assert list(manage.prune()) == []
        assert held.exists()
    assert not half.exists()
