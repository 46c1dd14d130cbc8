"""A clone for one bottle: what is in it, and a bottle's work on its way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.repos import Repo, make_repo

from bot_bottle.errors import ConflictError, WorkspaceError
from bot_bottle.workspace.clone import Clone, create, load
from bot_bottle.workspace.fetch import Work, collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply, diff, discard, summary, unfetched

Changes = Mapping[str, str | bytes | None]


def collected(clone: Clone) -> Work:
    return collect(clone, ended=True)[1]


def test_a_clone_has_the_history_of_head_and_nothing_else(user: Repo, agent: Repo, clone: Clone) -> None:
    assert agent.git("rev-parse", "HEAD") == user.git("rev-parse", "HEAD") == clone.record.base
    assert agent.git("branch", "--show-current") == "bottle/ship"
    assert agent.refs() == ["refs/heads/bottle/ship", "refs/tags/v1"]
    assert agent.git("status", "--porcelain") == ""
    assert (agent.top / "src/main.py").read_text() == "print(1)\n"
    private = user.git("rev-parse", "private")
    assert agent.git("cat-file", "-t", private, check=False) == ""
    assert agent.git("remote") == ""
    agent.git("fsck", "--strict")


def test_a_clone_shares_no_file_with_the_repository(clone: Clone, agent: Repo) -> None:
    assert not (agent.top / ".git/objects/info/alternates").exists()
    assert all(path.stat().st_nlink == 1 for path in agent.top.rglob("*") if path.is_file())
    assert clone.folder.stat().st_mode & 0o777 == 0o700


def test_commits_in_a_clone_are_the_users(agent: Repo, home: Path) -> None:
    assert agent.git("config", "--local", "user.name") == "Ada"
    assert agent.git("config", "--local", "user.email") == "ada@example.com"


def test_commits_become_a_branch_of_the_users(user: Repo, agent: Repo, clone: Clone) -> None:
    before = user.git("status", "--porcelain"), user.git("rev-parse", "HEAD")
    first = agent.commit({"new": "1\n"})
    last = agent.commit({"new": "2\n", "src/main.py": "print(2)\n"})
    work = collected(clone)
    assert (work.head, work.branch, work.uncommitted, work.left) == (last, "bottle/ship", "", ())
    assert user.git("rev-parse", "bottle/ship", "bottle/ship^") == f"{last}\n{first}"
    assert user.shows("bottle/ship", "new") == "2"
    assert (user.git("status", "--porcelain"), user.git("rev-parse", "HEAD")) == before
    user.git("fsck", "--strict")
    assert summary(clone, work).commits == 2


def test_nothing_done_makes_no_branch(user: Repo, agent: Repo, clone: Clone) -> None:
    work = collected(clone)
    assert (work.head, work.branch, work.newest) == (clone.record.base, "", clone.record.base)
    assert "refs/heads/bottle/ship" not in user.refs()
    assert unfetched(clone) == []


def test_uncommitted_work_is_kept_as_a_commit_beside_the_branch(
    user: Repo, agent: Repo, clone: Clone
) -> None:
    head = agent.commit({"new": "1\n"})
    agent.write({"new": "2\n", "untracked/x": "x\n", "build.o": "ignored\n", "docs/staged": "s\n"})
    agent.git("add", "docs/staged")
    (agent.top / "README").unlink()
    (agent.top / "src/main.py").chmod(0o755)
    (agent.top / "link").symlink_to("/etc/passwd")
    work = collected(clone)
    assert user.git("rev-parse", f"{work.uncommitted}^", "bottle/ship") == f"{head}\n{head}"
    assert user.names(work.uncommitted) == sorted(
        [".gitignore", "docs/a", "docs/staged", "link", "new", "src/main.py", "untracked/x"]
    )
    assert user.shows(work.uncommitted, "link") == "/etc/passwd"
    assert user.git("ls-tree", work.uncommitted, "src/main.py").startswith("100755")
    assert "refs/bottle/ship/uncommitted" in user.refs()
    again = collected(load(clone.folder))
    assert again == work


def test_uncommitted_work_that_is_gone_is_forgotten(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.write({"x": "x"})
    clone, work = collect(clone, ended=True)
    assert work.uncommitted
    (agent.top / "x").unlink()
    clone, work = collect(clone, ended=True)
    assert work.uncommitted == ""
    assert "refs/bottle/ship/uncommitted" not in user.refs()


def test_of_a_bottle_that_lives_only_commits_are_taken(agent: Repo, clone: Clone) -> None:
    head = agent.commit({"new": "1\n"})
    agent.write({"more": "x"})
    clone, work = collect(clone, ended=False)
    assert (work.head, work.uncommitted) == (head, "")


def test_other_branches_stashes_and_lost_heads_are_kept_too(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.write({"README": "stashed\n"})
    agent.git("stash", "-q")
    stash = agent.git("rev-parse", "stash")
    agent.git("switch", "-q", "-c", "odd/näme")
    side = agent.commit({"side": "1\n"})
    agent.git("switch", "-q", "bottle/ship")
    main = agent.commit({"new": "1\n"})
    agent.git("tag", "same-as-branch")
    agent.git("checkout", "-q", "--detach", "HEAD^")
    detached = agent.commit({"detached": "1\n"})
    agent.git("pack-refs", "--all")
    work = collected(clone)
    assert work.head == main
    kept = {user.git("rev-parse", name) for name in work.others}
    assert kept == {stash, side, detached}
    assert all(name.startswith("refs/bottle/ship/other/") for name in work.others)
    lost = unfetched(clone)
    assert len(lost) == 3
    for number, line in enumerate(lost):  # the commands that are named do keep it
        command = line.partition("keep them with: git ")[2].replace("NEW", f"kept-{number}")
        user.git(*command.split())
    assert unfetched(clone) == []


def test_the_branch_that_grew_out_of_ours_is_the_work(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.git("switch", "-q", "-c", "feature")
    head = agent.commit({"new": "1\n"})
    work = collected(clone)
    assert (work.head, work.branch, work.others) == (head, "bottle/ship", ())
    agent.git("branch", "-q", "-D", "bottle/ship")
    assert collected(load(clone.folder)).head == head


def test_a_branch_that_the_user_changed_is_left_to_him(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.commit({"new": "1\n"})
    clone, work = collect(clone, ended=True)
    user.git("switch", "-q", "bottle/ship")
    mine = user.commit({"own": "1\n"})
    head = agent.commit({"new": "2\n"})
    work = collected(clone)
    assert (work.branch, work.head) == ("", head)
    assert user.git("rev-parse", "bottle/ship", "refs/bottle/ship/head") == f"{mine}\n{head}"
    assert any("refs/bottle/ship/head" in line for line in unfetched(clone))


def test_a_branch_that_is_checked_out_is_not_moved(user: Repo, agent: Repo, clone: Clone) -> None:
    first = agent.commit({"new": "1\n"})
    clone, _ = collect(clone, ended=True)
    user.git("worktree", "add", "-q", user.top.parent / "linked", "bottle/ship")
    agent.commit({"new": "2\n"})
    assert collected(clone).branch == ""
    assert user.git("rev-parse", "bottle/ship") == first


def test_commits_that_were_rewritten_replace_the_branch(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.commit({"new": "1\n"})
    clone, _ = collect(clone, ended=True)
    agent.git("commit", "-q", "--amend", "-m", "other")
    agent.git("gc", "-q", "--prune=now")
    head = agent.git("rev-parse", "HEAD")
    assert collected(clone).head == head == user.git("rev-parse", "bottle/ship")


def test_packs_loose_objects_and_packed_references_are_all_read(
    user: Repo, agent: Repo, clone: Clone
) -> None:
    agent.commit({"packed": "1\n" * 1000})
    agent.git("repack", "-q", "-a", "-d")
    agent.git("pack-refs", "--all")
    head = agent.commit({"loose": "1\n", "big": bytes(3 << 20)})
    assert collected(clone).head == head
    user.git("fsck", "--strict")


@pytest.mark.parametrize("options", [("--object-format=sha256",), ("--shared",)], ids=["sha256", "shared"])
def test_a_repository_of_another_form_gets_the_work_back(tmp_path: Path, options: tuple[str, ...]) -> None:
    user = make_repo(tmp_path / "other", *options)
    user.commit({"a": "1\n"})
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship")
    agent = Repo(clone.work)
    head = agent.commit({"a": "2\n"})
    agent.write({"b": "x\n"})
    clone, work = collect(clone, ended=True)
    assert work.head == user.git("rev-parse", "bottle/ship") == head
    apply(clone, work)
    assert (user.top / "a").read_text() == "2\n"
    assert (user.top / "b").read_text() == "x\n"


def test_a_shallow_repository_gets_the_work_back(user: Repo, tmp_path: Path) -> None:
    shallow = Repo(tmp_path / "shallow")
    user.git("clone", "-q", "--depth=1", f"file://{user.top}", shallow.top)
    clone = create(tmp_path / "state/ship", open_repository(shallow.top), "ship")
    agent = Repo(clone.work)
    assert agent.git("rev-list", "--count", "HEAD") == "1"
    head = agent.commit({"a": "2\n"})
    assert collected(clone).head == head == shallow.git("rev-parse", "bottle/ship")


def test_a_worktree_and_a_submodule_can_be_cloned(user: Repo, tmp_path: Path) -> None:
    user.git("worktree", "add", "-q", tmp_path / "linked", "private")
    outer = make_repo(tmp_path / "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", user.top, "inner")
    for number, place in enumerate((tmp_path / "linked", outer.top / "inner")):
        repo = Repo(place)
        clone = create(tmp_path / f"state/s{number}", open_repository(place), f"s{number}")
        head = Repo(clone.work).commit({"x": "1\n"})
        assert collected(clone).head == head == repo.git("rev-parse", f"bottle/s{number}")


def test_a_worktree_with_relative_paths_can_be_cloned_from_anywhere(
    user: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As git 2.48 writes them with worktree.useRelativePaths; repositories that were moved have them too."""
    user.git("worktree", "add", "-q", tmp_path / "linked", "private")
    admin = user.top / ".git/worktrees/linked"
    (tmp_path / "linked/.git").write_text("gitdir: ../user/.git/worktrees/linked\n")
    (admin / "gitdir").write_text("../../../../linked/.git\n")
    for number, place in enumerate((tmp_path, user.top, Path("/"))):
        monkeypatch.chdir(place)
        name = f"s{number}"
        clone = create(tmp_path / "state" / name, open_repository(tmp_path / "linked"), name)
        head = Repo(clone.work).commit({"x": "1\n"})
        assert collected(clone).head == head == user.git("rev-parse", f"bottle/{name}")


def test_a_worktree_of_another_repository_is_refused_with_relative_paths_too(
    user: Repo, tmp_path: Path
) -> None:
    user.git("worktree", "add", "-q", tmp_path / "linked", "private")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger/.git").write_text("gitdir: ../user/.git/worktrees/linked\n")
    (user.top / ".git/worktrees/linked/gitdir").write_text("../../../../linked/.git\n")
    with pytest.raises(WorkspaceError, match="not a registered worktree"):
        open_repository(tmp_path / "stranger")


def test_names_with_every_byte_come_back(user: Repo, agent: Repo, clone: Clone) -> None:
    names = ["new\nline", "tab\there", "- dash", ":(exclude)x", "quote\"'", "a\\b", "é", "\udcff raw", "*"]
    agent.write(dict.fromkeys(names[:5], "committed\n"))
    agent.commit()
    agent.write(dict.fromkeys(names[5:], "uncommitted\n"))
    clone, work = collect(clone, ended=True)
    assert set(names) <= set(user.names(work.uncommitted))
    clone, changed = apply(clone, work)
    assert set(changed) == set(names)
    assert {(user.top / name).read_text() for name in names} == {"committed\n", "uncommitted\n"}


def test_a_repository_in_an_odd_place_gets_the_work_back(tmp_path: Path) -> None:
    user = make_repo(tmp_path / 'a "b"\n:c#')
    user.commit({"a": "1\n"})
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship")
    head = Repo(clone.work).commit({"a": "2\n"})
    clone, work = collect(clone, ended=True)
    assert work.head == head
    apply(clone, work)
    assert (user.top / "a").read_text() == "2\n"


def test_diff_shows_commits_and_uncommitted_work(agent: Repo, clone: Clone) -> None:
    agent.commit({"new": "1\n"})
    agent.write({"README": "one\ntwo\n3\nfour\nfive\n"})
    clone, work = collect(clone, ended=True)
    with diff(clone, work, "--no-color") as stream:
        text = stream.read().decode()
    assert "+++ b/new" in text
    assert "-three\n+3\n" in text
    counted = summary(clone, work)
    assert (counted.files, counted.added, counted.removed) == (2, 2, 1)


def test_apply_merges_with_what_the_user_did_meanwhile(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.commit({"README": "ONE\ntwo\nthree\nfour\nfive\n", "gone?": "x"})
    agent.git("rm", "-q", "docs/a")
    agent.commit()
    agent.write({"bin": bytes(range(256)), "src/more.py": "x\n"})
    user.commit({"README": "one\ntwo\nthree\nfour\nFIVE\n"})  # another place of the same file
    user.write({"src/main.py": "print(1)  # mine, uncommitted\n", "own": "mine\n"})
    staged = user.git("diff", "--cached", "--name-only")
    clone, work = collect(clone, ended=True)
    clone, changed = apply(clone, work)
    assert sorted(changed) == ["README", "bin", "docs/a", "gone?", "src/more.py"]
    assert (user.top / "README").read_text() == "ONE\ntwo\nthree\nfour\nFIVE\n"
    assert (user.top / "bin").read_bytes() == bytes(range(256))
    assert (user.top / "src/main.py").read_text() == "print(1)  # mine, uncommitted\n"
    assert not (user.top / "docs/a").exists()
    assert user.git("diff", "--cached", "--name-only") == staged
    assert apply(clone, work)[1] == []  # once more changes nothing


@pytest.mark.parametrize("committed", [True, False])
def test_a_conflict_is_told_and_changes_nothing(
    user: Repo, agent: Repo, clone: Clone, committed: bool
) -> None:
    agent.commit({"README": "agent\n", "src/main.py": "print(3)\n", "fine": "x\n"})
    user.write({"README": "user\n"})
    if committed:
        user.commit()
    before = user.git("status", "--porcelain")
    clone, work = collect(clone, ended=True)
    with pytest.raises(ConflictError) as told:
        apply(clone, work)
    assert told.value.why == "README"
    assert user.git("status", "--porcelain") == before
    assert (user.top / "README").read_text() == "user\n"
    assert load(clone.folder).record.applied == ""


MERGES = [
    # what each side makes of the base {"f": "1\\n2\\n3\\n", "d/x": "x"}, None to take away; None: a conflict
    ({"d/x": None}, {"d/x": None}, {"f": "1\n2\n3\n"}),
    ({"new": "same"}, {"new": "same"}, {"f": "1\n2\n3\n", "d/x": "x", "new": "same"}),
    ({"new": "one"}, {"new": "other"}, None),
    ({"f": None}, {"f": "1\n2\n4\n"}, None),
    ({"f": "0\n2\n3\n"}, {"f": "1\n2\n4\n"}, {"f": "0\n2\n4\n", "d/x": "x"}),
    ({"f": b"\0a"}, {"f": b"\0b"}, None),
    ({"d/x": None, "d": "file"}, {}, {"f": "1\n2\n3\n", "d": "file"}),
    ({"d/x": None, "d": "file"}, {"d/y": "mine"}, None),
    ({"f": None, "f/inside": "x"}, {}, {"f/inside": "x", "d/x": "x"}),
    ({"f": None, "f/inside": "x"}, {"f": "mine"}, None),
]


@pytest.mark.parametrize(("theirs", "mine", "result"), MERGES)
def test_two_sides_are_joined_or_refused_as_git_merge_does(
    tmp_path: Path, theirs: Changes, mine: Changes, result: dict[str, str] | None
) -> None:
    user = make_repo(tmp_path / "user")
    user.commit({"f": "1\n2\n3\n", "d/x": "x"})
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship")
    change(clone.work, theirs)
    change(user.top, mine)
    before = user.git("status", "--porcelain")
    clone, work = collect(clone, ended=True)
    if result is None:
        with pytest.raises(ConflictError):
            apply(clone, work)
        assert user.git("status", "--porcelain") == before
    else:
        apply(clone, work)
        files = (path for path in user.top.rglob("*") if path.is_file() and ".git/" not in str(path))
        assert {str(path.relative_to(user.top)): path.read_text() for path in files} == result


def change(top: Path, changes: Changes) -> None:
    for name, content in changes.items():
        if content is None:
            (top / name).unlink()
            with suppress(OSError):
                (top / name).parent.rmdir()
    Repo(top).write({name: content for name, content in changes.items() if content is not None})


def test_an_ignored_file_of_the_users_in_the_way_is_not_overwritten(
    user: Repo, agent: Repo, clone: Clone
) -> None:
    agent.commit({"lib.o": "agent\n"})
    user.write({"lib.o": "mine\n"})
    clone, work = collect(clone, ended=True)
    with pytest.raises(ConflictError, match="does not fit"):
        apply(clone, work)
    assert (user.top / "lib.o").read_text() == "mine\n"


def test_work_that_would_be_lost_is_named(user: Repo, agent: Repo, clone: Clone) -> None:
    agent.commit({"new": "1\n"})
    assert unfetched(clone) == []  # it is on a branch
    agent.write({"more": "x\n"})
    assert unfetched(clone) == ["uncommitted work that was not applied; take it with: bottle apply ship"]
    clone, work = collect(load(clone.folder), ended=True)
    clone, _ = apply(clone, work)
    assert unfetched(clone) == []
    (agent.top / "inner").mkdir()
    make_repo(agent.top / "inner").commit({"x": "1"})
    assert any("repository of its own" in line for line in unfetched(load(clone.folder)))


def test_a_clone_that_is_discarded_leaves_the_branch_and_nothing_else(
    user: Repo, agent: Repo, clone: Clone
) -> None:
    head = agent.commit({"new": "1\n"})
    agent.write({"x": "1"})
    collect(clone, ended=True)
    discard(clone)
    assert not clone.folder.exists()
    assert [name for name in user.refs() if "bottle" in name] == ["refs/heads/bottle/ship"]
    assert user.git("rev-parse", "bottle/ship") == head


def test_dirty_work_comes_along_when_asked(user: Repo, tmp_path: Path) -> None:
    user.write({"README": "mine\n", "untracked": "u\n", "x.o": "ignored\n"})
    status = user.git("status", "--porcelain")
    clone = create(tmp_path / "state/d", open_repository(user.top), "d", include_dirty=True)
    agent = Repo(clone.work)
    assert agent.git("status", "--porcelain") == ""
    assert ((agent.top / "README").read_text(), (agent.top / "untracked").read_text()) == ("mine\n", "u\n")
    assert not (agent.top / "x.o").exists()
    assert user.git("status", "--porcelain") == status
    agent.write({"README": "mine\nand more\n"})
    clone, work = collect(clone, ended=True)
    apply(clone, work)
    assert (user.top / "README").read_text() == "mine\nand more\n"


@pytest.mark.parametrize("taken", ["bottle", "bottle/ship", "bottle/ship/x"])
def test_a_branch_in_the_way_is_told(user: Repo, tmp_path: Path, taken: str) -> None:
    user.git("branch", taken)
    with pytest.raises(WorkspaceError, match=taken):
        create(tmp_path / "state/ship", open_repository(user.top), "ship")
    assert not (tmp_path / "state/ship").exists()


def test_what_cannot_be_cloned_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not a git repository"):
        open_repository(tmp_path)
    with pytest.raises(WorkspaceError, match=f"no folder {tmp_path}/nowhere"):
        open_repository(tmp_path / "nowhere")
    empty = make_repo(tmp_path / "empty")
    with pytest.raises(WorkspaceError, match="no commit yet"):
        create(tmp_path / "state/ship", open_repository(empty.top), "ship")


@pytest.mark.parametrize("dirty", [False, True])
def test_a_partial_clone_is_told_and_leaves_nothing(user: Repo, tmp_path: Path, dirty: bool) -> None:
    user.commit({"README": "newer\n"})
    user.git("config", "uploadpack.allowFilter", "true")
    partial = Repo(tmp_path / "partial")
    user.git("clone", "-q", "--filter=blob:none", f"file://{user.top}", str(partial.top))
    with pytest.raises(WorkspaceError, match="partial clone") as told:
        create(tmp_path / "state/ship", open_repository(partial.top), "ship", include_dirty=dirty)
    assert "git fetch --refetch --no-filter" in told.value.next_step
    assert not (tmp_path / "state/ship").exists()
    assert [name for name in partial.refs() if "bottle" in name] == []
    partial.git("fetch", "-q", "--refetch", "--no-filter")  # the way on that was named
    clone = create(tmp_path / "state/ship", open_repository(partial.top), "ship", include_dirty=dirty)
    assert Repo(clone.work).shows("HEAD~1", "README").startswith("one")


def test_an_unfinished_clone_is_told(user: Repo, tmp_path: Path) -> None:
    (tmp_path / "state/ship").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="never finished") as told:
        load(tmp_path / "state/ship")
    assert "bottle rm" in told.value.next_step


def test_half_a_clone_is_none(clone: Clone) -> None:
    (clone.folder / "clone.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(WorkspaceError, match="no clone"):
        load(clone.folder)
