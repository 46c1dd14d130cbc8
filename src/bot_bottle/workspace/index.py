"""A git index of our own that starts from the user's: what git recorded of the files, and what it leaves out.

Sources: gitformat-index(5), git-read-tree(1), git-update-index(1) on skip-worktree and assume-unchanged.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.text import printable_lines
from bot_bottle.structs import replace
from bot_bottle.workspace.git import Git

_SPLIT = "sharedindex.*"
_SUBMODULE = b"160000"


class Tracked(Struct, frozen=True):
    """The entries of an index, as `MODE OBJECT` by name.

    `skipped` are those that git does not look for in the folder: left out by a sparse checkout, or marked by
    the user (skip-worktree, assume-unchanged).
    """

    files: dict[bytes, bytes] = field(default_factory=dict)
    skipped: dict[bytes, bytes] = field(default_factory=dict)
    submodules: dict[bytes, bytes] = field(default_factory=dict)


def read_tree(git: Git, tree: str, index: Path, *, sparse: bool) -> None:
    """Make the index of `git` hold `tree`, with what `index` says of files that are the same.

    What a `sparse` checkout leaves out stays so, in the state that `index` has it. Raises WorkspaceError when
    it cannot be known what is left out.
    """
    assert git.index is not None  # noqa: S101 - an index of our own is the point
    git.index.unlink(missing_ok=True)
    recorded = _copy(index, git)
    if recorded is not None:
        before = list_entries(git, check=False).skipped if sparse else {}
        # with --reset also in the middle of a merge
        done = git.run("read-tree", "--reset", "-i", tree, check=False)
        if not done.code:
            after = list_entries(git).skipped if sparse else {}
            staged = {name: entry for name, entry in before.items() if after.get(name) != entry}
            # update-index wants a folder, and is not to look at the user's
            own = replace(git, work_tree=git.folder)
            set_entries(own, staged)
            update(own, staged, "--skip-worktree")
            # files as new as the index may have changed since: git reads those, unless the index is newer
            os.utime(git.index, ns=(recorded.st_atime_ns, recorded.st_mtime_ns))
            return
        if sparse:
            raise WorkspaceError(
                f"cannot determine what the sparse checkout leaves out: {index} cannot be read",
                why=printable_lines(done.complaint),
                next_step="git status has to work there; or git sparse-checkout disable",
            )
    git.index.unlink(missing_ok=True)
    git.run("read-tree", tree)


def _copy(index: Path, git: Git) -> os.stat_result | None:
    """Copy an index, and what it shares with others (git-update-index(1), split index)."""
    assert git.index is not None  # noqa: S101 - see above
    try:
        for path in (index, *index.parent.glob(_SPLIT)):
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            shutil.copyfile(path, git.index if path == index else git.folder / path.name)
        return index.stat()
    except FileNotFoundError:
        return None


def list_entries(git: Git, *, check: bool = True) -> Tracked:
    """Return the entries of an index, without those that a merge has left unresolved."""
    found = Tracked()
    for line in read_names(git, "ls-files", "-z", "-v", "--stage", check=check):
        facts, _, name = line.partition(b"\t")
        tag, mode, value, _ = facts.split(b" ")
        if mode == _SUBMODULE:
            found.submodules[name] = mode + b" " + value
        elif tag == b"S" or tag.islower():
            found.skipped[name] = mode + b" " + value
        else:
            found.files[name] = mode + b" " + value
    return found


def set_entries(git: Git, entries: Mapping[bytes, bytes]) -> None:
    """Put entries, as `MODE OBJECT` by name, into the index."""
    _feed(
        git, (entry + b"\t" + name for name, entry in entries.items()), "update-index", "-z", "--index-info"
    )


def update(git: Git, names: Iterable[bytes], *how: str) -> None:
    """Make git update the entries of these names."""
    _feed(git, names, "update-index", *how, "-z", "--stdin")


def _feed(git: Git, names: Iterable[bytes], *command: str) -> None:
    with tempfile.TemporaryFile(dir=git.folder) as file:
        file.writelines(name + b"\0" for name in names)
        if file.tell():
            file.seek(0)
            git.run(*command, input=file)


def read_names(git: Git, *command: str, names: Iterable[bytes] = (), check: bool = True) -> Iterator[bytes]:
    """Run a git command on names and return those it prints; a file holds them, they may be many."""
    with tempfile.TemporaryFile(dir=git.folder) as given, tempfile.TemporaryFile(dir=git.folder) as file:
        given.writelines(name + b"\0" for name in names)
        given.seek(0)
        done = git.run(*command, input=given, output=file, check=check and command[0] != "check-ignore")
        if check and done.code > 1:  # check-ignore gives 1 when nothing is ignored
            raise WorkspaceError(f"git {command[0]} failed", why=printable_lines(done.complaint))
        file.seek(0)
        yield from (line for line in file.read().split(b"\0") if line)
