"""Pushes that are held for the user: nothing reaches the remote before they push it on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.git_world import Inside, cloned, git_world

from bot_bottle.errors import WorkspaceError
from bot_bottle.git.held import drop, forward, held, settle
from bot_bottle.git.rules import PushRules

HOLD = PushRules(hold=True)


def test_a_held_push_reaches_the_remote_when_the_user_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    with git_world(tmp_path, HOLD) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"}, message="one")
        said = clone.pushes("origin", "HEAD")
        assert "remote: bottle: bottle/blue: held for the user" in said
        assert "bottle forward blue" in said
        commit = clone.commit({"b": "b\n"}, message="two")
        clone.pushes("origin", "HEAD")  # on top of what is held
        assert world.remote.refs("refs/heads/bottle") == []
        assert clone.run("ls-remote", "origin", "bottle/blue").out.startswith(commit)
    (found,) = held(folder)
    assert (found.remote, found.branch, found.commit) == ("origin", "bottle/blue", commit)
    assert [line.split(" ", 1)[1] for line in found.commits] == ["two", "one"]
    settle(folder)
    ((remote, branches, _),) = forward(folder)
    assert (remote.name, branches) == ("origin", {"bottle/blue": commit})
    assert world.remote.git("rev-parse", "bottle/blue") == commit
    assert held(folder) == []
    assert list(forward(folder)) == []
    settle(folder)
    assert not folder.exists()


def test_what_others_push_meanwhile_is_not_held_and_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    with git_world(tmp_path, HOLD) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
        theirs = world.user.commit({"b": "b\n"})
        world.user.git("push", "-q", "origin", "main", "main:bottle/blue")
        assert clone.run("fetch", "-q", "origin").code == 0
        assert clone.git("rev-parse", "origin/main") == theirs
        assert [each.branch for each in held(folder)] == ["bottle/blue"]
        with pytest.raises(WorkspaceError, match="git push failed"):
            list(forward(folder))
        assert world.remote.git("rev-parse", "bottle/blue") == theirs
        assert [each.branch for each in drop(folder)] == ["bottle/blue"]
        assert held(folder) == []
        assert clone.run("ls-remote", "origin", "bottle/blue").out.startswith(theirs)


def test_what_the_user_has_pushed_on_by_hand_is_no_longer_held(tmp_path: Path) -> None:
    with git_world(tmp_path, HOLD) as world:
        clone = cloned(world)
        commit = clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
        world.remote.git("fetch", "-q", str(world.quarantine), "bottle/blue:bottle/blue")
        assert clone.run("fetch", "-q", "origin").code == 0
        assert held(tmp_path / "held") == []
        assert world.remote.git("rev-parse", "bottle/blue") == commit
        after = clone.commit({"b": "b\n"})
        clone.pushes("origin", "HEAD")
        assert [each.commit for each in held(tmp_path / "held")] == [after]


def test_a_held_push_outlives_its_bottle_and_goes_on_in_the_next_one(tmp_path: Path) -> None:
    with git_world(tmp_path, HOLD) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
    with git_world(tmp_path, HOLD) as world:
        clone = Inside(world.inside.top / "clone", env=world.inside.env)
        commit = clone.commit({"b": "b\n"})
        clone.pushes("origin", "HEAD")
        assert [each.commit for each in held(tmp_path / "held")] == [commit]
        assert len(held(tmp_path / "held")[0].commits) == 2
