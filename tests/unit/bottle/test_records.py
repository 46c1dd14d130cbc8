"""Receipts: whole or not there, for their user alone, and no more of them than are kept."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bot_bottle.bottle import records
from bot_bottle.errors import EngineError, Interrupted, ReceiptError, SpecError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress

KILLED = """
import os, signal
from bot_bottle.bottle import records
from bot_bottle.host.progress import Progress
with records.recorded("blue", Progress()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def record(name: str, number: int = 0) -> None:
    with records.recorded(name, Progress()) as each:
        each.plan = {"number": number}


def newest(name: str | None = None) -> int:
    plan = records.newest(name).plan
    assert plan is not None
    return int(plan["number"])


def test_a_receipt_tells_how_the_run_ended() -> None:
    progress = Progress()
    with records.recorded("blue", progress) as receipt:
        receipt.exit_status = 3
        with progress.timed("command"):
            pass
    found = records.newest("blue")
    assert found.exit_status == 3
    assert (found.ended or "") >= found.began
    assert set(found.seconds) == {"command", "total"}
    for path in (paths.receipts_dir(), *paths.receipts_dir().iterdir()):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("error", "status"), [(EngineError("no engine"), 103), (Interrupted(15), 143)])
def test_a_failed_run_has_a_record_with_its_error_and_status(error: EngineError, status: int) -> None:
    with pytest.raises(type(error)), records.recorded("blue", Progress()):
        raise error
    found = records.newest()
    assert (found.error, found.exit_status) == (error.message, status)


def test_a_run_that_was_killed_has_one_without_an_end() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -signal.SIGKILL
    assert records.newest("blue").ended is None


def test_the_last_of_a_name_is_found_and_no_other() -> None:
    record("blue", 1)
    record("light-blue", 2)
    record("blue", 3)
    record("green", 4)
    assert newest("blue") == 3
    assert newest("light-blue") == 2
    assert newest() == 4
    with pytest.raises(ReceiptError, match="named red"):
        records.newest("red")


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReceiptError, match="there are no records"):
        records.newest()
    monkeypatch.setattr(records, "KEEP", 3)
    for number in range(5):
        record("blue", number)
    kept = [path for path in paths.receipts_dir().iterdir() if path.suffix == ".json"]
    assert len(kept) == 3
    assert newest() == 4


def test_what_a_killed_writer_left_is_written_over() -> None:
    record("blue")
    (paths.receipts_dir() / "partial").write_text("x" * 10_000)
    record("blue", 7)
    assert newest() == 7
    assert not (paths.receipts_dir() / "partial").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"name":', '{"pid": "7"}', '{"plan": []}'])
def test_a_damaged_record_is_reported_with_its_path(content: str) -> None:
    record("blue")
    (path,) = paths.receipts_dir().glob("*.json")
    path.write_text(content)
    with pytest.raises(ReceiptError, match=path.name):
        records.newest()


def test_a_receipt_that_cannot_be_kept_does_not_stop_the_run(tmp_path: Path) -> None:
    paths.state_dir().write_text("a file")
    said = io.StringIO()
    with records.recorded("blue", Progress("quiet", said)) as receipt:
        receipt.exit_status = 0
    assert "the receipt of this run could not be written" in said.getvalue()


def test_a_record_of_an_earlier_version_names_its_engine(tmp_path: Path) -> None:
    old = {"name": "blue", "place": "container", "versions": {"engine": "podman 4.3.1 / 4.3.1"}, "plan": None}
    assert records.RunRecord.from_json(old, tmp_path).machine().engine == "podman"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record("blue", 3)
    found = records.newest("blue")
    again = records.RunRecord.from_json(found.to_json(), found.path)
    assert again == found
    with pytest.raises(SpecError, match="is still starting"):
        found.machine()
