"""Bring a bottle's work back into the user's repository: as a branch, and under refs/bottle/NAME/.

refs/heads/bottle/NAME        the commits, where the user looks for them
refs/bottle/NAME/base         what the bottle started from
refs/bottle/NAME/head         the commits again, whatever becomes of the branch
refs/bottle/NAME/uncommitted  a commit of what was left uncommitted
refs/bottle/NAME/other/*      branches, tags and stashes that the agent made and that hold more
"""

from __future__ import annotations

import re

from msgspec import Struct

from bot_bottle.errors import BottleError, WorkspaceError
from bot_bottle.workspace.clone import Clone, Record
from bot_bottle.workspace.git import FETCH_ONLY, Git
from bot_bottle.workspace.repository import Repository
from bot_bottle.workspace.snapshot import Snapshot, snapshot
from bot_bottle.workspace.untrusted_git import References, take

_MOST_OTHERS = 100
_WORK = ("refs/heads/", "refs/tags/", "refs/stash")


class Work(Struct, frozen=True):
    """What a bottle has done so far, all of it in the user's repository; the values are commits.

    `uncommitted` and `others` may be empty; `branch` is empty when there is none or the user changed it.
    `left` says what stayed in the clone, and why.
    """

    base: str
    head: str
    uncommitted: str
    branch: str
    others: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def newest(self) -> str:
        """The commit that holds everything on the branch, uncommitted work included."""
        return self.uncommitted or self.head


def collect(clone: Clone, *, ended: bool) -> tuple[Clone, Work]:
    """Fetch what a bottle has done into the user's repository, and return what it was. May be repeated.

    While the bottle runs (not `ended`) only commits are fetched: its files may change while they are read.
    Raises WorkspaceError when the clone contains what cannot be fetched; then nothing has changed.
    """
    record = clone.record
    if record.received:
        return clone, _received(clone)
    with clone.scratch() as scratch:
        repository = clone.repository()
        intake = repository.with_alternate(scratch / "intake.git")
        references = take(clone.work, intake, record.object_format, record.packs)
        tips = _tips(intake, record, references)
        left: list[str] = []
        if ended:
            done = _uncommitted(intake, clone, references.head_commit or record.base, left)
            if done is not None and done.commit != (references.head_commit or record.base):
                tips["uncommitted"] = _unchanged(intake, record, done) or done.commit
        elif record.uncommitted:
            tips["uncommitted"] = record.uncommitted
        transfer(intake, repository.with_shared_objects(scratch / "clean.git"), record, tips)
        branch = set_references(repository, record, tips)
        clone = clone.with_record(
            branch_at=branch or record.branch_at,
            head=tips["head"],
            uncommitted=tips.get("uncommitted", ""),
        )
    others = tuple(f"{record.kept}{name}" for name in tips if name.startswith("other/"))
    work = Work(
        base=record.base,
        head=tips["head"],
        uncommitted=tips.get("uncommitted", ""),
        branch=record.branch.removeprefix("refs/heads/") if branch else "",
        others=others,
        left=tuple(left),
    )
    return clone, work


def _received(clone: Clone) -> Work:
    """Return the work that came from another machine, and is in the user's repository already."""
    record, there = clone.record, clone.repository().references(clone.record.kept[:-1], clone.record.branch)
    others = tuple(name for name in there if name.startswith(f"{record.kept}other/"))
    branch = record.branch.removeprefix("refs/heads/") if there.get(record.branch) == record.head else ""
    return Work(record.base, record.head, record.uncommitted, branch, others, ())


def _tips(intake: Git, record: Record, references: References) -> dict[str, str]:
    """Return the commits to fetch, by their names under refs/bottle/NAME/; all they need must be there."""
    names = [name for name in references.values if name.startswith(_WORK)]
    values = {name: references.values[name] for name in names}
    if references.head_commit:
        values["HEAD"] = references.head_commit
    commits = find_commits(intake, values)
    branch, checked_out = commits.get(record.branch, ""), commits.get("HEAD", "")
    missing = [name for name in (record.branch, "HEAD") if name in values and name not in commits]
    if missing or not (branch or checked_out):
        raise WorkspaceError(
            "the bottle's repository is missing commits",
            why=f"{missing[0]} names a commit that is not there" if missing else "it has no branch any more",
        )
    head = branch or checked_out
    if checked_out and branch and intake.is_ancestor(branch, checked_out):
        head = checked_out
    known = {record.base, *record.references.values(), head}
    found = {name: commit for name, commit in commits.items() if not {commit, values[name]} & known}
    others = list(set(found.values()))
    if len(others) > _MOST_OTHERS:
        raise WorkspaceError(f"the bottle made more than {_MOST_OTHERS} branches")
    if others:
        others = intake.lines("merge-base", "--independent", head, *others)
    tips = {"head": head}
    for commit in sorted(set(others) - {head}):
        name = next(name for name in found if found[name] == commit)
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name.removeprefix("refs/").removeprefix("heads/"))
        tips[f"other/{safe[:60]}-{commit[:8]}"] = commit
    intake.run("rev-list", "--objects", "--quiet", *tips.values(), "--not", record.base)
    return tips


def find_commits(intake: Git, values: dict[str, str]) -> dict[str, str]:
    """Return the commit of each reference that is one, or a tag of one, and exists."""
    asked = "".join(f"{value}^{{commit}}\n" for value in values.values())
    lines = intake.run("cat-file", "--batch-check=%(objectname) %(objecttype)", input=asked.encode()).text
    found = {}
    for name, line in zip(values, lines.splitlines(), strict=True):
        value, _, kind = line.partition(" ")
        if kind == "commit":
            found[name] = value
    return found


def _uncommitted(intake: Git, clone: Clone, parent: str, left: list[str]) -> Snapshot | None:
    """Commit what is in the folder; a failure is added to `left`, and does not prevent fetching commits."""
    message = f"Uncommitted work of bottle {clone.record.name}"
    try:
        done = snapshot(intake, clone.work, parent, clone.folder / "index", message)
    except BottleError as error:
        left.append(f"uncommitted work is only in {clone.work}: {error.message} {error.why}".rstrip())
        return None
    left += [f"{clone.work / path} is a repository of its own; copy what you need" for path in done.left]
    return done


def _unchanged(intake: Git, record: Record, done: Snapshot) -> str:
    """Return an earlier commit with the same content, so that it is not made again and again."""
    if not record.uncommitted:
        return ""
    rev_parse = "rev-parse", "-q", "--verify"
    before = intake.run(*rev_parse, f"{record.uncommitted}^{{tree}}", check=False).text
    parents = [
        intake.run(*rev_parse, f"{each}^", check=False).text for each in (record.uncommitted, done.commit)
    ]
    return record.uncommitted if before == done.tree and parents[0] == parents[1] else ""


def transfer(intake: Git, clean: Git, record: Record, tips: dict[str, str]) -> None:
    """Move new objects into the user's store; each is checked as git fsck does, or none is stored."""
    _set(clean, {"refs/known/base": record.base})
    _set(intake, {f"{record.kept}{name}": commit for name, commit in tips.items()})
    everything = f"+{record.kept}*:{record.kept}*"
    clean.run("-c", "fetch.fsckObjects=true", "fetch", *FETCH_ONLY, intake.folder, everything)


def _set(git: Git, references: dict[str, str]) -> None:
    text = "".join(f"update {name}\0{value}\0\0" for name, value in references.items())
    git.run("update-ref", "--stdin", "-z", input=text.encode())


def set_references(repository: Repository, record: Record, tips: dict[str, str]) -> str:
    """Set the user's references to what was fetched; return where the branch is if it is ours to move."""
    there = repository.references(record.kept[:-1], record.branch)
    now = there.pop(record.branch, "")
    wanted = {f"{record.kept}{name}": commit for name, commit in tips.items()}
    wanted[f"{record.kept}base"] = record.base
    changes = {name: (there.get(name, ""), wanted.get(name, "")) for name in {*there, *wanted}}
    head = tips["head"]
    mine = now == head or (now == record.branch_at and record.branch not in repository.checked_out())
    if mine and head != record.base:
        changes[record.branch] = (now, head)
        now = head
    repository.update({name: change for name, change in changes.items() if change[0] != change[1]})
    return now if mine else ""
