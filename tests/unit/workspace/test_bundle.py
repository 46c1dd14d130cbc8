"""A repository that goes to another machine as a bundle, and the work that comes back from there as one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.repos import Repo, make_repo

from bot_bottle.errors import WorkspaceError
from bot_bottle.workspace.bundle import (
    Origin,
    copy_repository,
    receive_work,
    restore_repository,
    write_repository,
    write_work,
)
from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.fetch import collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply, summary, unfetched


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = make_repo(tmp_path / "repo")
    made.git("config", "user.name", "Ada")
    made.commit({"a": "one\n"})
    made.git("tag", "v1")
    made.commit({"a": "two\n"})
    return made


def sent(repo: Repo, tmp_path: Path, *, include_dirty: bool = False) -> tuple[Origin, Repo]:
    """Send a repository to another machine, and return what is there."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    origin = write_repository(repo.top, scratch, tmp_path / "repository.bundle", include_dirty=include_dirty)
    restore_repository(tmp_path / "repository.bundle", tmp_path / "kept", origin)
    copy_repository(tmp_path / "kept", tmp_path / "there")
    return origin, Repo(tmp_path / "there")


def worked(there: Repo, tmp_path: Path, name: str = "blue") -> tuple[dict[str, str], Path]:
    """Let a bottle of that machine commit a file and change another, and return its work."""
    clone = create(tmp_path / "clone-there", open_repository(there.top), name)
    inside = Repo(clone.work)
    inside.commit({"new": "new\n"})
    inside.write({"a": "three\n"})
    collect(clone, ended=True)
    out = tmp_path / "work.bundle"
    return write_work(open_repository(there.top), name, out), out


def received(repo: Repo, origin: Origin, tips: dict[str, str], bundle: Path | None, tmp_path: Path) -> Clone:
    return receive_work(tmp_path / "here", origin, "blue", tips, bundle)


def test_a_copy_has_the_same_objects_and_is_independent(repo: Repo, tmp_path: Path) -> None:
    _, there = sent(repo, tmp_path)
    kept = tmp_path / "kept"
    objects = [path for path in (kept / ".git/objects").rglob("*") if path.is_file()]
    assert objects
    assert all(path.samefile(there.top / path.relative_to(kept)) for path in objects)
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    worked(there, tmp_path)
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


def test_work_comes_back_as_from_a_bottle_here(repo: Repo, tmp_path: Path) -> None:
    origin, there = sent(repo, tmp_path)
    assert there.git("config", "user.name") == "Ada"
    assert there.git("describe", "--tags") == repo.git("describe", "--tags")
    clone = received(repo, origin, *worked(there, tmp_path), tmp_path)
    assert repo.shows("bottle/blue", "new") == "new"
    assert repo.shows("refs/bottle/blue/uncommitted", "a") == "three"
    clone, work = collect(clone, ended=True)
    assert work.branch == "bottle/blue"
    counted = summary(clone, work)
    assert (counted.commits, counted.files, counted.added, counted.removed) == (1, 2, 2, 1)
    assert unfetched(clone)
    assert apply(clone, work)[1] == ["a", "new"]
    assert (repo.top / "a").read_text() == "three\n"


def test_uncommitted_changes_go_along(repo: Repo, tmp_path: Path) -> None:
    repo.write({"a": "changed\n"})
    origin, there = sent(repo, tmp_path, include_dirty=True)
    assert there.shows("HEAD", "a") == "changed"
    assert origin.base == there.git("rev-parse", "HEAD")


def test_a_shallow_repository_goes_along(repo: Repo, tmp_path: Path) -> None:
    top = tmp_path / "shallow"
    repo.git("clone", "-q", "--depth=1", f"file://{repo.top}", top)
    origin, there = sent(Repo(top), tmp_path)
    received(Repo(top), origin, *worked(there, tmp_path), tmp_path)
    assert Repo(top).shows("bottle/blue", "new") == "new"


def test_a_bottle_without_work_leaves_no_branch(repo: Repo, tmp_path: Path) -> None:
    origin, there = sent(repo, tmp_path)
    collect(create(tmp_path / "clone-there", open_repository(there.top), "blue"), ended=True)
    out = tmp_path / "work.bundle"
    tips = write_work(open_repository(there.top), "blue", out)
    assert not out.exists()
    clone = received(repo, origin, tips, None, tmp_path)
    assert "refs/heads/bottle/blue" not in repo.refs()
    assert not unfetched(clone)


@pytest.mark.parametrize(
    "tips",
    [
        {},
        {"head": "0" * 40, "../../heads/main": "0" * 40},
        {"head": "--upload-pack=x"},
        {"uncommitted": "f" * 40},
    ],
)
def test_what_is_no_work_changes_nothing(repo: Repo, tips: dict[str, str], tmp_path: Path) -> None:
    origin, there = sent(repo, tmp_path)
    _, bundle = worked(there, tmp_path)
    before = repo.git("for-each-ref")
    with pytest.raises(WorkspaceError):
        received(repo, origin, tips, bundle, tmp_path)
    assert repo.git("for-each-ref") == before
    assert not (tmp_path / "here").exists()


def test_work_that_is_too_large_is_not_sent(repo: Repo, tmp_path: Path) -> None:
    _, there = sent(repo, tmp_path)
    clone = create(tmp_path / "clone-there", open_repository(there.top), "blue")
    (clone.work / "noise").write_bytes(os.urandom(300_000))
    Repo(clone.work).git("add", "noise")
    Repo(clone.work).git("commit", "-q", "-m", "noise")
    collect(clone, ended=True)
    repository, out = open_repository(there.top), tmp_path / "work.bundle"
    with pytest.raises(WorkspaceError, match="the commits of blue are too large") as refused:
        write_work(repository, "blue", out, 200_000)
    assert not out.exists()
    assert "--max-work" in str(refused.value)
    assert write_work(repository, "blue", out, 400_000)["head"] == Repo(clone.work).git("rev-parse", "HEAD")
    assert 300_000 < out.stat().st_size < 400_000


def test_a_damaged_bundle_changes_nothing(repo: Repo, tmp_path: Path) -> None:
    origin, there = sent(repo, tmp_path)
    tips, bundle = worked(there, tmp_path)
    bundle.write_bytes(bundle.read_bytes()[:-40])
    with pytest.raises(WorkspaceError):
        received(repo, origin, tips, bundle, tmp_path)
    assert repo.refs("refs/bottle") == []


def test_a_file_that_git_refuses_is_not_taken(repo: Repo, tmp_path: Path) -> None:
    """A tree with an entry named .git, which git fsck refuses."""
    origin, there = sent(repo, tmp_path)
    blob = there.git("hash-object", "-w", "--stdin", input=b"x")
    entry = b"100644 .git\0" + bytes.fromhex(blob)
    tree = there.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", input=entry)
    commit = there.git("commit-tree", tree, "-p", origin.base, "-m", "evil")
    there.git("update-ref", "refs/bottle/blue/base", origin.base)
    there.git("update-ref", "refs/bottle/blue/head", commit)
    tips = write_work(open_repository(there.top), "blue", tmp_path / "work.bundle")
    with pytest.raises(WorkspaceError) as refused:
        received(repo, origin, tips, tmp_path / "work.bundle", tmp_path)
    assert "hasDotgit" in refused.value.why
    assert repo.refs("refs/bottle") == []
