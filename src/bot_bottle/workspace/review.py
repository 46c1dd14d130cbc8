"""Review of a bottle's work: show it, put it into the user's folder, and check whether it may be removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.errors import BottleError, ConflictError, WorkspaceError
from bot_bottle.host import files, process
from bot_bottle.host.text import printable, printable_lines
from bot_bottle.structs import replace
from bot_bottle.workspace.clone import Clone
from bot_bottle.workspace.fetch import Work, collect
from bot_bottle.workspace.filters import filters_of
from bot_bottle.workspace.git import Git
from bot_bottle.workspace.index import update
from bot_bottle.workspace.snapshot import snapshot

# nothing that settings or attributes name is asked how to show a file
_PLAIN = ("--no-ext-diff", "--no-textconv", "--submodule=short")
_SHOWN = 20
_FILES = {"100644", "100755"}  # modes of which both sides' lines can be merged
_WHOLE = (*_PLAIN, "--binary", "--full-index", "--no-renames", "--no-color")


Entry = tuple[str, str]  # mode and blob


class Summary(Struct, frozen=True):
    """How much a bottle has done: commits on its branch, files and lines against where it started."""

    commits: int
    files: int
    added: int
    removed: int


def summary(clone: Clone, work: Work) -> Summary:
    """Count what was fetched."""
    if work.newest == work.base:
        return Summary(0, 0, 0, 0)
    with clone.scratch() as scratch:
        git = clone.repository().with_shared_objects(scratch / "clean.git")
        commits = int(git.run("rev-list", "--count", work.head, f"^{work.base}").text)
        added = removed = changed = 0
        for line in git.lines("diff", "--numstat", "--no-renames", *_PLAIN, work.base, work.newest):
            changed += 1
            counts = line.split("\t")[:2]
            if "-" not in counts:  # binary
                added, removed = added + int(counts[0]), removed + int(counts[1])
    return Summary(commits, changed, added, removed)


@contextmanager
def diff(clone: Clone, work: Work, *options: str) -> Iterator[BinaryIO]:
    """Yield a bottle's changes as git shows them: a stream of bytes that an agent chose."""
    with clone.scratch() as scratch:
        git = clone.repository().with_shared_objects(scratch / "clean.git")
        argv = git.argv("diff", *_PLAIN, *options, work.base, work.newest)
        with process.reading(argv, env=git.environment(), cwd=git.folder) as stream:
            yield stream


def apply(clone: Clone, work: Work) -> tuple[Clone, list[str]]:
    """Put a bottle's changes into the user's folder, and return the names that changed there.

    It is a three-way merge with the content of the folder, committed or not. Nothing is committed or staged.
    Raises ConflictError, which lists the places, before anything is written.
    """
    repository = clone.repository()
    with clone.scratch() as scratch, repository.explain_missing():
        git = repository.with_alternate(scratch / "merge.git")
        index = repository.folder / "index"
        sparse = repository.is_sparse
        git = replace(git, settings=repository.conversions)
        head = repository.head()
        mine = snapshot(git, repository.top, head, index, "mine", sparse=sparse, users=True).tree
        merged = merge_trees(git, work.base, mine, work.newest)
        changed = git.run("diff", "--name-status", "-z", *_WHOLE, mine, merged).stdout.split(b"\0")
        names = changed[1::2]
        _check_filters(git, repository.top, changed)
        there = _checked_out(git, repository.top, mine, changed) if sparse else mine
        patch = _patch(git, scratch, there, merged)
        if patch.stat().st_size:
            _write(replace(git, work_tree=repository.top), patch)
        clone = clone.with_record(applied=work.newest)
    return clone, [name.decode("utf-8", "surrogateescape") for name in names if name]


def _check_filters(git: Git, top: Path, changed: list[bytes]) -> None:
    """Raise ConflictError for changes of files that the folder has in another form than git stores them."""
    old = [name for status, name in zip(changed[::2], changed[1::2], strict=False) if status != b"A"]
    work = replace(git, work_tree=top, index=git.folder / "snapshot.index")
    if found := filters_of(work, old):
        shown = [printable(name) for name in sorted(found)]
        raise ConflictError(
            "the bottle changed files that git LFS or another filter stores; nothing was changed",
            why="\n".join(shown[:_SHOWN]),
            next_step="git merge the bottle's branch, which runs the filter",
        )


def _checked_out(git: Git, top: Path, tree: str, changed: list[bytes]) -> str:
    """Return the tree without those changed files that a sparse checkout leaves out: they are new there.

    Raises ConflictError for the removal of such a file, which the folder cannot show.
    """
    absent = {
        name: status
        for status, name in zip(changed[::2], changed[1::2], strict=False)
        if status != b"A" and not os.path.lexists(os.path.join(os.fsencode(top), name))  # noqa: PTH118 - bytes
    }
    if gone := [printable(name) for name, status in absent.items() if status == b"D"]:
        raise ConflictError(
            "the bottle removed files that your sparse checkout leaves out; nothing was changed",
            why="\n".join(sorted(gone)[:_SHOWN]),
            next_step="git merge the bottle's branch, or git sparse-checkout disable",
        )
    own = replace(git, work_tree=git.folder, index=git.folder / "checked-out.index")
    own.run("read-tree", tree)
    update(own, absent, "--force-remove")
    return own.run("write-tree").text


def _patch(git: Git, scratch: Path, old: str, new: str) -> Path:
    path = scratch / f"{new}.patch"
    with path.open("wb") as file:
        git.run("diff", *_WHOLE, old, new, output=file)
    return path


def _write(git: Git, patch: Path) -> None:
    done = git.run("apply", "--whitespace=nowarn", patch, check=False)
    if done.code:
        raise ConflictError(
            "the bottle's work does not fit into your folder; nothing was changed",
            why=printable_lines(done.complaint)[-2000:],
            next_step="move away what is in the way, or git merge the bottle's branch",
        )


def unfetched(clone: Clone) -> list[str]:
    """Return what of an ended bottle's work would be lost with its clone, and how to keep each.

    Its work is fetched first. Commits have to be on a branch or tag of the user, uncommitted work has to have
    been applied.
    """
    try:
        clone, work = collect(clone, ended=True)
        repository = clone.repository()
    except BottleError as error:
        return [f"its work could not be brought back: {error.message}"]
    lost = list(work.left)
    held = ("--count=1", "refs/heads", "refs/remotes", "refs/tags")
    for name, commit in repository.references(clone.record.kept[:-1]).items():
        last = name.removeprefix(clone.record.kept)
        if last == "uncommitted" and clone.record.applied != commit:
            lost.append(
                f"uncommitted work that was not applied; take it with: bottle apply {clone.record.name}"
            )
        if last not in ("base", "uncommitted") and not repository.references(f"--contains={commit}", *held):
            lost.append(f"commits that are on no branch of yours; keep them with: git branch NEW {name}")
    return lost


def discard(clone: Clone) -> None:
    """Remove a clone, and the references that separate its work from the user's branches."""
    try:
        repository = clone.repository()
        kept = repository.references(clone.record.kept[:-1])
        repository.update({name: (value, "") for name, value in kept.items()})
    except WorkspaceError:
        pass  # without a usable repository there are no references to remove
    files.remove_tree(clone.folder)


def merge_trees(git: Git, base: str, mine: str, theirs: str) -> str:
    """Return the tree with both sides' changes. Raises ConflictError, which lists where they conflict.

    The changes of one side are taken, those of both are merged by lines. Only git's own merge by lines is
    used, not drivers that attributes name.
    """
    own = replace(git, index=git.folder / "merge.index")
    own.run("read-tree", "-i", "-m", "--aggressive", base, mine, theirs)
    settled, unmerged = _entries(own)
    merged = {path: _merge_entry(own, stages) for path, stages in unmerged.items()}
    there = settled | {path for path, result in merged.items() if result}
    above = {path[:end] for path in there for end, char in enumerate(path) if char == ord("/")}
    conflicts = [path for path, result in merged.items() if result is None or path in there & above]
    if conflicts:
        shown = [printable(path) for path in sorted(conflicts)]
        more = [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        raise ConflictError(
            "the bottle's work conflicts with what is in your folder; nothing was changed",
            why="\n".join(shown[:_SHOWN] + more),
            next_step="commit your own work, then git merge the bottle's branch and resolve it there",
        )
    gone = ("0", "0" * len(base))
    lines = [f"{' '.join(result or gone)}\t".encode() + path + b"\0" for path, result in merged.items()]
    own.run("update-index", "-z", "--index-info", input=b"".join(lines))
    return own.run("write-tree").text


def _entries(git: Git) -> tuple[set[bytes], dict[bytes, dict[int, Entry]]]:
    """Return the names that are merged, and the stages of those that are not: 1 base, 2 mine, 3 theirs."""
    settled: set[bytes] = set()
    unmerged: dict[bytes, dict[int, Entry]] = {}
    with (git.folder / "entries").open("w+b") as file:
        git.run("ls-files", "--stage", "-z", output=file)
        file.seek(0)
        for line in file.read().split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, blob, stage = facts.decode().split(" ")
            if stage == "0":
                settled.add(path)
            else:
                unmerged.setdefault(path, {})[int(stage)] = (mode, blob)
    return settled, unmerged


def _merge_entry(git: Git, stages: dict[int, Entry]) -> Entry | tuple[()] | None:
    """Return the result for a name: an entry, () if it is removed, None if the sides cannot be merged."""
    base, mine, theirs = (stages.get(number) for number in (1, 2, 3))
    if base == mine or mine == theirs:
        return theirs or ()
    if base == theirs:
        return mine or ()
    if base and mine and theirs and {base[0], mine[0], theirs[0]} <= _FILES:
        return _merge_file(git, base, mine, theirs)
    return None


def _merge_file(git: Git, base: Entry, mine: Entry, theirs: Entry) -> Entry | None:
    """Merge a file by lines."""
    paths = []
    for number, (_, blob) in enumerate((mine, base, theirs)):
        paths.append(git.folder / f"side-{number}")
        with paths[-1].open("wb") as file:
            git.run("cat-file", "blob", blob, output=file)
    result = git.folder / "merged"
    with result.open("wb") as file:
        done = git.run("merge-file", "-p", "-q", *paths, output=file, check=False)
    if done.code:
        return None
    blob = git.run("hash-object", "-w", "--no-filters", result).text
    return theirs[0] if mine[0] == base[0] else mine[0], blob
