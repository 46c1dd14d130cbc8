"""Held pushes by the name of their bottle: listed, pushed on, dropped, and not lost by `bottle rm`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.git_world import cloned, git_world

from bot_bottle.bottle import manage, pushes, records
from bot_bottle.cli.main import run
from bot_bottle.errors import ReceiptError, SpecError
from bot_bottle.git.rules import PushRules
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with records.recorded("blue", Progress()):
        pass


def test_a_held_push_is_not_removed_with_its_bottle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = paths.bottle_dir("blue") / "held"
    with git_world(tmp_path, PushRules(hold=True), held=folder) as world:
        clone = cloned(world)
        commit = clone.commit({"a": "a\n"}, message="one")
        clone.pushes("origin", "HEAD")
    [state] = manage.list_bottles()
    assert state.kept == ("held",)
    assert manage.remove("blue") == ["bottle/blue is held for origin: bottle forward blue"]
    assert run(["forward", "--dry-run", "blue"]) == 0
    assert capsys.readouterr().out == f"origin bottle/blue {commit[:12]}\n    {commit[:7]} one\n"
    assert world.remote.refs("refs/heads/bottle") == []
    assert run(["forward", "blue"]) == 0
    assert capsys.readouterr().out == f"origin bottle/blue {commit[:12]} {world.remote.top}\n"
    assert world.remote.git("rev-parse", "bottle/blue") == commit
    assert manage.list_bottles() == []


def test_what_is_dropped_is_not_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paths.bottle_dir("blue") / "held"
    with git_world(tmp_path, PushRules(hold=True), held=folder) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
    assert run(["forward", "--drop", "--dry-run", "blue"]) == 2
    assert run(["forward", "--drop", "blue"]) == 0
    assert capsys.readouterr().out.startswith("origin bottle/blue ")
    assert not folder.exists()
    assert world.remote.refs("refs/heads/bottle") == []


def test_a_bottle_that_holds_nothing_says_so() -> None:
    with pytest.raises(SpecError, match="nothing of the bottle blue is held"):
        list(pushes.forward("blue"))
    with pytest.raises(ReceiptError):
        pushes.drop("green")
