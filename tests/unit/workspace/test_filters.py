"""Files that git stores in another form than they have in the folder: filters, ends of lines, modes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.repos import Repo

from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.fetch import collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply


def cloned(user: Repo, tmp_path: Path, *, dirty: bool) -> tuple[Clone, Repo]:
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship", include_dirty=dirty)
    return clone, Repo(clone.work)


def stale(user: Repo, *names: str) -> None:
    """Give files another time, so that git has to read them to know that they are the same."""
    for name in names:
        os.utime(user.top / name, (1, 1))


def test_no_plain_text_of_an_encrypting_filter_is_committed(
    user: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with git-crypt: the folder has the text, git has what the filter makes of it."""
    user.git("config", "filter.crypt.clean", "tr a-z n-za-m")
    user.git("config", "filter.crypt.smudge", "tr n-za-m a-z")
    user.write({".gitattributes": "*.key filter=crypt\n"})
    user.commit({"old.key": "password\n", "same.key": "password\n"})
    assert user.shows("HEAD", "old.key") == "cnffjbeq"
    user.write({"old.key": "another password\n", "new.key": "password\n", "README": "dirty\n"})
    stale(user, "same.key")
    clone, agent = cloned(user, tmp_path, dirty=True)
    assert agent.shows("HEAD", "README") == "dirty"
    for name in ("old.key", "same.key"):
        assert agent.shows("HEAD", name) == "cnffjbeq"
    assert "new.key" not in agent.names("HEAD")
    assert clone.missing == (
        "filters: old.key, same.key are as git stores them; no filter was run",
        "filters: new.key, old.key, same.key are as they were committed, even if you changed them",
    )


@pytest.mark.parametrize("touched", [False, True])
def test_ends_of_lines_and_modes_are_as_the_users_git_has_them(
    user: Repo, tmp_path: Path, home: Path, touched: bool
) -> None:
    with (home / ".gitconfig").open("a") as file:
        file.write("[core]\n autocrlf = true\n")
    user.git("config", "core.fileMode", "false")
    user.git("rm", "-q", "--cached", "-r", ".")
    user.git("reset", "-q", "--hard")
    assert b"\r\n" in (user.top / "README").read_bytes()
    (user.top / "README").chmod(0o755)
    if touched:
        stale(user, "README", "src/main.py")
    assert user.git("status", "--porcelain") == ""
    clone, agent = cloned(user, tmp_path, dirty=True)
    assert clone.record.base == user.git("rev-parse", "HEAD")
    agent.git("config", "core.autocrlf", "false")
    agent.commit({"README": "one\ntwo\nthree\nfour\nFIVE\n"})
    clone, work = collect(clone, ended=True)
    assert apply(clone, work)[1] == ["README"]
    assert user.git("diff", "--numstat") == "1\t1\tREADME"
    assert (user.top / "README").read_bytes() == b"one\r\ntwo\r\nthree\r\nfour\r\nFIVE\r\n"


def test_submodules_are_named(user: Repo, tmp_path: Path) -> None:
    outer = Repo(tmp_path / "outer")
    outer.top.mkdir()
    outer.git("init", "-q", "-b", "main")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", user.top, "inner")
    outer.commit()
    clone, agent = cloned(outer, tmp_path, dirty=False)
    assert list((agent.top / "inner").iterdir()) == []
    assert clone.missing == ("submodules: inner are empty folders",)
