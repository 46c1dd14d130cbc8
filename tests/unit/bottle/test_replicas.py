"""Room for many bottles at once: what their clones take, and nothing that is not in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.repos import Repo, make_repo

from bot_bottle.cli.main import bottle
from bot_bottle.workspace.repository import open_repository

FAN = ("fan", "1", "--backend", "docker", "-m", "256m", "--image", "no-such-image", "--", "true")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    repo = make_repo(tmp_path / "repo")
    repo.commit({"file": "x" * 100_000, ".gitignore": "build\n"})
    monkeypatch.chdir(repo.top)
    return repo


def test_a_clone_takes_its_objects_and_its_files(repo: Repo) -> None:
    size = open_repository(repo.top).clone_size()
    assert 100_000 < size < 200_000
    with (repo.top / "build").open("wb") as file:
        file.truncate(1 << 40)  # ignored, and a hole
    repo.write({"more": b"\0" * 1000})
    assert open_repository(repo.top).clone_size() == size
    with (repo.top / "file").open("r+b") as file:
        file.truncate(1 << 40)  # not committed
    assert open_repository(repo.top).clone_size() == size


def test_what_does_not_fit_is_told_with_what_it_takes(
    repo: Repo, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOT_BOTTLE_STATE_DIR", str(small_disk))
    told = str(CliRunner().invoke(bottle, FAN).exception)
    assert f"not enough space in {small_disk} for 1 clone of {repo.top}" in told
    assert "are needed" in told
    assert "BOT_BOTTLE_STATE_DIR" in told


def test_outside_a_repository_nothing_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "not a git repository" in str(CliRunner().invoke(bottle, FAN).exception)
