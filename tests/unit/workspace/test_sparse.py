"""A sparse checkout, and files that git is told to pass over: what is not in the folder is not deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.repos import Repo

from bot_bottle.errors import ConflictError, WorkspaceError
from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.fetch import collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply, diff, summary

ALL = ["README", "far/a", "far/deep/b", "near/a", "near/b"]
FORMS = {
    "cone": ("set", "--cone", "near"),
    "sparse index": ("set", "--cone", "--sparse-index", "near"),
    "patterns": ("set", "--no-cone", "/README", "/near/"),
}


@pytest.fixture(params=FORMS)
def sparse(request: pytest.FixtureRequest, tmp_path: Path, user: Repo) -> Repo:
    user.git("rm", "-rq", ".")
    lines = "1\n2\n3\n4\n5\n"
    user.commit({"README": "r\n", "near/a": lines, "near/b": lines, "far/a": lines, "far/deep/b": lines})
    user.git("sparse-checkout", *FORMS[request.param])
    assert not (user.top / "far").exists()
    return user


def cloned(user: Repo, tmp_path: Path, *, dirty: bool = True) -> tuple[Clone, Repo]:
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship", include_dirty=dirty)
    return clone, Repo(clone.work)


def changes(user: Repo) -> list[str]:
    return user.git("status", "--porcelain", "--untracked-files=all").splitlines()


@pytest.mark.parametrize("dirty", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_first_commit_of_a_clone_removes_nothing(sparse: Repo, tmp_path: Path, dirty: bool) -> None:
    sparse.write({"near/a": "1\n2\nMINE\n4\n5\n", "near/new": "new\n"})
    clone, agent = cloned(sparse, tmp_path, dirty=dirty)
    assert agent.names("HEAD") == [*ALL, *(["near/new"] if dirty else [])]
    assert (agent.top / "far/deep/b").exists()
    agent.commit({"near/b": "0\n2\n3\n4\n5\n"})
    clone, work = collect(clone, ended=True)
    with diff(clone, work, "--name-status", "--no-color") as stream:
        assert stream.read() == b"M\tnear/b\n"
    assert summary(clone, work).files == 1
    names = set(sparse.names("bottle/ship"))
    assert names == {*ALL, *(["near/new"] if dirty else [])}
    apply(clone, work)
    assert (sparse.top / "near/a").read_text() == "1\n2\nMINE\n4\n5\n"
    assert (sparse.top / "near/b").read_text() == "0\n2\n3\n4\n5\n"
    assert sorted(changes(sparse)) == sorted([" M near/a", " M near/b", "?? near/new"])


@pytest.mark.parametrize("dirty", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_branch_can_be_merged(sparse: Repo, tmp_path: Path, dirty: bool) -> None:
    if dirty:
        sparse.write({"near/a": "1\n2\nMINE\n4\n5\n"})
    clone, agent = cloned(sparse, tmp_path, dirty=dirty)
    agent.commit({"near/b": "0\n", "far/deep/b": "0\n"})
    collect(clone, ended=True)
    sparse.git("checkout", "-q", "--", "near")
    sparse.git("merge", "-q", "bottle/ship")
    assert sparse.names("HEAD") == ALL
    assert sparse.shows("HEAD", "far/deep/b") == "0"
    assert changes(sparse) == []


def test_a_clean_checkout_is_the_commit_itself(sparse: Repo, tmp_path: Path) -> None:
    clone, agent = cloned(sparse, tmp_path)
    assert agent.git("rev-parse", "HEAD") == clone.record.base == sparse.git("rev-parse", "HEAD")


def test_a_change_outside_is_written_where_it_can_be_seen(sparse: Repo, tmp_path: Path) -> None:
    clone, agent = cloned(sparse, tmp_path, dirty=False)
    agent.commit({"far/a": "1\n2\n3\n4\nFIVE\n", "near/a": "x\n", "far/new": "n\n"})
    clone, work = collect(clone, ended=True)
    clone, names = apply(clone, work)
    assert names == ["far/a", "far/new", "near/a"]
    assert (sparse.top / "far/a").read_text() == "1\n2\n3\n4\nFIVE\n"
    assert sorted(changes(sparse)) == [" M far/a", " M near/a", "?? far/new"]
    assert apply(clone, work)[1] == []  # once more changes nothing


def test_a_file_outside_that_is_in_the_folder_all_the_same_is_work(sparse: Repo, tmp_path: Path) -> None:
    sparse.write({"far/a": "MINE\n2\n3\n4\n5\n"})
    clone, agent = cloned(sparse, tmp_path)
    assert (agent.top / "far/a").read_text() == "MINE\n2\n3\n4\n5\n"
    agent.commit({"far/a": "MINE\n2\n3\n4\nTHEIRS\n"})
    clone, work = collect(clone, ended=True)
    apply(clone, work)
    assert (sparse.top / "far/a").read_text() == "MINE\n2\n3\n4\nTHEIRS\n"


def test_a_removal_outside_is_refused_with_the_names(sparse: Repo, tmp_path: Path) -> None:
    clone, agent = cloned(sparse, tmp_path, dirty=False)
    agent.git("rm", "-q", "far/a")
    agent.commit({"near/a": "x\n"})
    clone, work = collect(clone, ended=True)
    with pytest.raises(ConflictError) as told:
        apply(clone, work)
    assert told.value.why == "far/a"
    assert changes(sparse) == []


def test_what_is_staged_outside_comes_along(sparse: Repo, tmp_path: Path) -> None:
    """As a merge or a cherry-pick without a commit leaves it."""
    blob = sparse.git("hash-object", "-w", "--stdin", input=b"staged\n")
    sparse.git("sparse-checkout", "reapply")
    sparse.git("update-index", "--cacheinfo", f"100644,{blob},far/a")
    sparse.git("update-index", "--skip-worktree", "far/a")
    assert changes(sparse) == ["M  far/a"]
    _, agent = cloned(sparse, tmp_path)
    assert (agent.top / "far/a").read_text() == "staged\n"
    assert agent.names("HEAD") == ALL


def test_a_sparse_clone_in_the_middle_of_a_merge_keeps_its_work(sparse: Repo, tmp_path: Path) -> None:
    sparse.git("switch", "-q", "-c", "other")
    sparse.write({"near/a": "THEIRS\n"})
    sparse.git("commit", "-qam", "theirs")
    sparse.git("switch", "-q", "main")
    sparse.write({"near/a": "MINE\n"})
    sparse.git("commit", "-qam", "mine")
    sparse.git("merge", "-q", "other", check=False)
    assert "UU near/a" in changes(sparse)
    _, agent = cloned(sparse, tmp_path)
    assert agent.names("HEAD") == ALL
    assert "<<<<<<<" in (agent.top / "near/a").read_text()


def test_a_split_index_is_read(sparse: Repo, tmp_path: Path) -> None:
    sparse.git("sparse-checkout", "set", "--no-sparse-index", *sparse.git("sparse-checkout", "list").split())
    sparse.git("update-index", "--split-index")
    sparse.write({"near/a": "MINE\n"})
    sparse.git("add", "near/a")
    assert list(sparse.top.glob(".git/sharedindex.*"))
    _, agent = cloned(sparse, tmp_path)
    assert agent.names("HEAD") == ALL
    assert (agent.top / "near/a").read_text() == "MINE\n"


def test_an_index_that_cannot_be_read_is_told(sparse: Repo, tmp_path: Path) -> None:
    (sparse.top / ".git/index").write_bytes(b"no index")
    with pytest.raises(WorkspaceError, match="what the sparse checkout leaves out"):
        cloned(sparse, tmp_path)


# --- marks of the user's


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
def test_what_git_is_told_to_pass_over_stays_as_it_was_committed(
    user: Repo, tmp_path: Path, mark: str
) -> None:
    """So a password in a tracked file, which is hidden from `git commit -a`, stays out of the clone too."""
    user.git("update-index", mark, "README", "docs/a")
    user.write({"README": "password\n", "src/main.py": "print(2)\n"})
    (user.top / "docs/a").unlink()
    assert changes(user) == [" M src/main.py"]
    clone, agent = cloned(user, tmp_path)
    assert (agent.top / "README").read_text().startswith("one\n")
    assert (agent.top / "docs/a").exists()
    assert (agent.top / "src/main.py").read_text() == "print(2)\n"
    agent.commit({"README": "agent\n"})
    clone, work = collect(clone, ended=True)
    with pytest.raises(ConflictError):
        apply(clone, work)
    assert (user.top / "README").read_text() == "password\n"


def test_a_change_in_the_moment_of_a_commit_is_seen(user: Repo, tmp_path: Path) -> None:
    """git cannot tell by size and time what was written in the same moment as its index."""
    path, index = user.top / "src/main.py", user.top / ".git/index"
    moment = 1_700_000_000 * 10**9
    os.utime(path, ns=(moment, moment))
    user.git("update-index", "--refresh")
    os.utime(index, ns=(moment, moment))
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"print(9)")
    os.utime(path, ns=(moment, moment))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    user.git("config", "core.trustctime", "false")
    clone, agent = cloned(user, tmp_path)
    assert (agent.top / "src/main.py").read_text() == "print(9)\n"
    assert clone.record.base != user.git("rev-parse", "HEAD")
