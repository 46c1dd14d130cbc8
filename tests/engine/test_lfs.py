"""git LFS, the real program: a clone has its pointers, and nothing of it is committed as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot_bottle.errors import ConflictError
from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.fetch import collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply
from tests.support.repos import Repo, make_repo

CONTENT = os.urandom(20_000)


def cloned(user: Repo, tmp_path: Path, *, dirty: bool) -> tuple[Clone, Repo]:
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship", include_dirty=dirty)
    return clone, Repo(clone.work)


@pytest.fixture
def lfs(tmp_path: Path) -> Repo:
    """A repository with files that git LFS keeps, as the real program makes it."""
    user = make_repo(tmp_path / "user")
    user.git("lfs", "install", "--local")
    user.write({"README": "one\n", ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    user.commit({"a.bin": CONTENT, "sub/b.bin": CONTENT + b"b", "empty.bin": ""})
    assert user.git("status", "--porcelain") == ""
    return user


def stale(user: Repo, *names: str) -> None:
    """Give files another time, so that git has to read them to know that they are the same."""
    for name in names:
        os.utime(user.top / name, (1, 1))


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("touched", [False, True])
def test_unchanged_lfs_files_are_the_pointers_that_they_were(
    lfs: Repo, tmp_path: Path, dirty: bool, touched: bool
) -> None:
    if touched:
        stale(lfs, "a.bin", "sub/b.bin", "empty.bin")
    clone, agent = cloned(lfs, tmp_path, dirty=dirty)
    assert clone.record.base == lfs.git("rev-parse", "HEAD")
    assert (agent.top / "a.bin").read_text().startswith("version https://git-lfs")
    assert clone.missing == ("git LFS: a.bin, sub/b.bin are pointers, without their content",)
    agent.commit({"README": "agent\n"})
    clone, work = collect(clone, ended=True)
    assert apply(clone, work)[1] == ["README"]
    assert (lfs.top / "a.bin").read_bytes() == CONTENT


def test_changed_lfs_files_become_the_pointers_that_lfs_would_make(lfs: Repo, tmp_path: Path) -> None:
    lfs.write({"a.bin": b"changed", "new.bin": b"new", "sub/b.bin": CONTENT + b"b"})
    (lfs.top / "new.bin").chmod(0o755)
    _, agent = cloned(lfs, tmp_path, dirty=True)
    lfs.git("add", "--all")
    assert agent.git("ls-tree", "-r", "HEAD") == lfs.git("ls-tree", "-r", lfs.git("write-tree"))


def test_a_large_file_that_an_agent_writes_is_stored_whole(lfs: Repo, tmp_path: Path) -> None:
    """Its content is nowhere else; but what it only fetched is the same as before."""
    clone, agent = cloned(lfs, tmp_path, dirty=False)
    agent.write({"a.bin": CONTENT, "more.bin": b"of the agent's"})
    _, work = collect(clone, ended=True)
    assert lfs.names(work.uncommitted) == [*sorted(["more.bin", *lfs.names("HEAD")])]
    assert lfs.shows(work.uncommitted, "more.bin") == "of the agent's"
    assert lfs.shows(work.uncommitted, "a.bin") == lfs.shows("HEAD", "a.bin")


def test_a_change_of_an_lfs_file_is_refused_by_apply_with_its_name(lfs: Repo, tmp_path: Path) -> None:
    clone, agent = cloned(lfs, tmp_path, dirty=False)
    agent.write({"a.bin": b"of the agent's", "README": "agent\n"})
    clone, work = collect(clone, ended=True)
    with pytest.raises(ConflictError) as told:
        apply(clone, work)
    assert told.value.why == "a.bin"
    assert lfs.git("status", "--porcelain") == ""
