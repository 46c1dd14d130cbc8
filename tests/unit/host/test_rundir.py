"""Run folders go with their command, and what a killed command left is swept by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bot_bottle.errors import CacheError
from bot_bottle.host import paths, process_tree, rundir


def test_a_folder_is_private_and_goes_with_its_block() -> None:
    with rundir.run_dir() as run:
        assert run.path.stat().st_mode & 0o777 == 0o700
        (run.folder("work") / "file").write_text("x")
        (run.path / "link").symlink_to("/etc")
    assert list(paths.runs_dir().iterdir()) == []
    assert Path("/etc/passwd").exists()


def test_a_folder_goes_when_its_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), rundir.run_dir() as run:
        run.folder("work")
        raise ZeroDivisionError
    assert not run.path.exists()


def test_a_living_command_is_left_alone() -> None:
    with rundir.run_dir() as run:
        run.record("thing", name="a")
        assert rundir.sweep({"thing": _never}) == 0
        assert run.path.exists()


def _never(_stray: dict[str, Any]) -> None:
    raise AssertionError


KILLED = """
import os, signal
from bot_bottle.host import rundir
with rundir.run_dir() as run:
    run.record("thing", name="a")
    run.record("thing", name="b")
    (run.path / "strays.jsonl").open("a").write('{"kind": "thi')
    (run.folder("work") / "big").write_bytes(bytes(100))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_one() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_sigkill_left_is_swept_last_made_first() -> None:
    kill_one()
    seen: list[str] = []
    assert rundir.sweep({"thing": lambda stray: seen.append(stray["name"])}) == 1
    assert seen == ["b", "a"]
    assert list(paths.runs_dir().iterdir()) == []


PROGRAMS = """
import os, signal
from bot_bottle.host import process; from bot_bottle.host import rundir
with rundir.run_dir(), process.background(["sh", "-c", "sleep 300 & echo $$ $!; wait"], output=open(1, "wb")):
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_programs_that_sigkill_left_are_ended_with_all_that_they_started() -> None:
    command = [sys.executable, "-c", PROGRAMS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdin is not None
        pids = [int(word) for word in killed.stdout.readline().split()]
        killed.stdin.close()
    assert killed.returncode == -signal.SIGKILL
    assert all(process_tree.start_time(pid) for pid in pids)
    assert rundir.sweep({"process": process_tree.sweep_process}) == 1
    assert [alive(pid) for pid in pids] == [False, False]


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stray_that_cannot_be_ended_is_tried_again() -> None:
    kill_one()

    def busy(_stray: dict[str, Any]) -> None:
        raise OSError

    assert rundir.sweep({"thing": busy}) == 0
    assert rundir.sweep({}) == 0
    assert rundir.sweep({"thing": lambda _stray: None}) == 1


def test_what_another_folder_holds_is_removed_after_it() -> None:
    """As an image whose container belongs to another command."""
    kill_one()
    kill_one()
    tried: list[str] = []

    def held_at_first(stray: dict[str, Any]) -> None:
        tried.append(stray["name"])
        if len(tried) == 1:
            raise OSError

    assert rundir.sweep({"thing": held_at_first}) == 2
    assert tried == ["b", *("b", "a"), *("b", "a")]
    assert list(paths.runs_dir().iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_clear_error(cache_dir: Path) -> None:
    cache_dir.write_text("a file")
    with pytest.raises(CacheError, match="cannot work in") as caught, rundir.run_dir():
        pass
    assert "BOT_BOTTLE_CACHE_DIR" in str(caught.value)


BUSY = """
from bot_bottle.host import rundir
for _ in range(100):
    with rundir.run_dir() as run:
        assert run.path.stat().st_mode & 0o777 == 0o700
        run.folder("work")
    rundir.sweep({})
"""


def test_commands_that_begin_while_others_sweep_all_get_their_folder() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(6)]
    assert [each.wait() for each in busy] == [0] * 6
    assert list(paths.runs_dir().iterdir()) == []


def kept() -> list[str]:
    return [path.name for path in paths.runs_dir().iterdir()]


def test_a_run_folder_is_kept_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(rundir.KEEP_VARIABLE, "1")
    with rundir.run_dir() as run:
        (run.folder("emulated") / "console.log").write_text("Linux version 6\n")
    (where,) = paths.runs_dir().iterdir()
    assert (where / "emulated" / "console.log").read_text() == "Linux version 6\n"
    assert where.stat().st_mode & 0o777 == 0o700
    assert capfd.readouterr().err == f"bottle: kept the run folder {where}\n"


def test_a_kept_run_folder_survives_later_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rundir.KEEP_VARIABLE, "1")
    with rundir.run_dir():
        pass
    monkeypatch.delenv(rundir.KEEP_VARIABLE)
    before = kept()
    assert rundir.sweep({}) == 0
    with rundir.run_dir():
        pass
    assert kept() == before
    assert len(before) == 1


def test_what_a_killed_command_recorded_is_removed_and_its_kept_folder_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(rundir.KEEP_VARIABLE, "1")
    kill_one()
    monkeypatch.delenv(rundir.KEEP_VARIABLE)
    seen: list[str] = []
    assert rundir.sweep({"thing": lambda stray: seen.append(stray["name"])}) == 1
    assert seen == ["b", "a"]
    (where,) = paths.runs_dir().iterdir()
    assert where.name.startswith("kept-")
    assert (where / "work" / "big").read_bytes() == bytes(100)
    assert rundir.sweep({}) == 0


@pytest.mark.parametrize("value", ["", "0"])
def test_a_run_folder_is_removed_where_keeping_is_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rundir.KEEP_VARIABLE, value)
    with rundir.run_dir():
        pass
    assert kept() == []


def test_keeping_a_run_folder_needs_no_standard_error() -> None:
    program = "from bot_bottle.host import rundir\nwith rundir.run_dir(): pass"
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program]
    subprocess.run(command, check=True, env={**os.environ, rundir.KEEP_VARIABLE: "1"})
    assert len(kept()) == 1
