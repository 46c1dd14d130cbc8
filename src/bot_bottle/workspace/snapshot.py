"""A commit of what is in a folder, committed or not, without running anything that the folder names.

git only answers what it can by reading: which names are ignored, and what plain files contain. It never looks
for changes by itself, because then it would run git in nested repositories, with their settings.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.text import printable
from bot_bottle.structs import replace
from bot_bottle.workspace.filters import filters_of, lfs_entry, list_modified
from bot_bottle.workspace.git import Git
from bot_bottle.workspace.index import list_entries, read_names, read_tree, set_entries, update

_MOST = 2_000_000  # names; a large checkout with its packages ignored has 100,000
_AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "bottle"), ("EMAIL", "bottle@bottle.invalid"))
}


class Snapshot(Struct, frozen=True):
    """A commit of a folder's content.

    `left` names nested repositories, which are not included; `filtered` changed files that are included
    unchanged, since only a filter could turn them into what git stores.
    """

    commit: str
    tree: str
    left: tuple[str, ...] = ()
    filtered: tuple[str, ...] = ()


def snapshot(
    git: Git,
    work: Path,
    parent: str,
    index: Path,
    message: str,
    *,
    sparse: bool = False,
    users: bool = False,
) -> Snapshot:
    """Commit all of a folder that is not ignored, onto `parent`, into a repository of our own.

    `index` is git's state of the files at some time, so that unchanged files are not read. What it marks as
    not checked out, or as assumed unchanged, stays as it is there; in a `sparse` checkout, files that exist
    in the folder all the same are included, as git does. Names that are neither files nor links are left out.
    A file of LFS stays the pointer that it was; if the folder is the `users` own, a changed one becomes a new
    pointer, and what other filters would change is left as it was.

    Nobody may write to the folder meanwhile. Returns the parent itself when the content is the same. Raises
    WorkspaceError.
    """
    own = replace(git, work_tree=work, index=git.folder / "snapshot.index")
    # without the folder: writing an index, git may read files of it, which have not been looked over yet
    read_tree(replace(own, work_tree=None), parent, index, sparse=sparse)
    tracked = list_entries(own)
    try:
        found, left = _walk(own, work)
        inside = tuple(path + b"/" for path in tracked.submodules)
        names = tracked.files.keys() | {path for path in found if not path.startswith(inside)}
        content, gone = _sorted_out(work, names - tracked.submodules.keys() - tracked.skipped.keys())
        if sparse:
            present, _ = _sorted_out(work, tracked.skipped)
            update(own, present, "--no-skip-worktree")
            content += present
    except OSError as error:
        raise WorkspaceError(f"cannot read {work}", why=printable(str(error))) from error
    update(own, [*gone, *tracked.submodules], "--force-remove")
    filtered = _add(own, work, content, tracked.files, users=users)
    set_entries(own, tracked.submodules)
    tree = own.run("write-tree").text
    if tree == own.run("rev-parse", f"{parent}^{{tree}}").text:
        return Snapshot(parent, tree, left, filtered)
    author = replace(own, extra=_AUTHOR)
    commit = author.run("commit-tree", tree, "-p", parent, "-m", message).text
    return Snapshot(commit, tree, left, filtered)


def _add(
    git: Git, work: Path, content: list[bytes], known: Mapping[bytes, bytes], *, users: bool
) -> tuple[str, ...]:
    """Put files into the index, and return the names of those that only their filter could put there."""
    filters = filters_of(git, content)
    update(git, (name for name in content if name not in filters), "--add", "--replace")
    pointers: dict[bytes, bytes] = {}
    plain: list[bytes] = []
    passed: list[str] = []
    for name in list_modified(git, filters, known) if filters else []:
        lfs = filters[name] == b"lfs"
        entry = lfs_entry(git, work, name) if lfs else None
        if entry is not None and (users or entry == known.get(name)):
            pointers[name] = entry
        elif lfs or not users:
            plain.append(name)
        else:
            passed.append(os.fsdecode(name))
    set_entries(git, pointers)
    update(git, plain, "--add", "--replace")
    return tuple(passed)


def _walk(git: Git, work: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """Return the files and links that are not ignored, and the folders that are repositories of their own."""
    found: list[bytes] = []
    left: list[str] = []
    level = [b""]
    while level:
        folders: list[bytes] = []
        plain: list[bytes] = []
        for path in level:
            inside = list(os.scandir(os.path.join(os.fsencode(work), path)))  # noqa: PTH118 - of bytes
            if path and any(entry.name == b".git" for entry in inside):
                left.append(os.fsdecode(path))
            else:
                for entry in inside:
                    _sort(entry, path + b"/" + entry.name if path else entry.name, folders, plain)
        if len(found) + len(plain) + len(folders) > _MOST:
            raise WorkspaceError(
                f"more than {_MOST} files in {work}", next_step="add build output to .gitignore"
            )
        ignored = _ignored(git, folders + plain)
        found += [name for name in plain if name not in ignored]
        level = [name for name in folders if name not in ignored]
    return found, tuple(left)


def _sort(entry: os.DirEntry[bytes], name: bytes, folders: list[bytes], plain: list[bytes]) -> None:
    if entry.name == b".git":
        return
    if entry.is_dir(follow_symlinks=False):
        folders.append(name)
    elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
        plain.append(name)
    elif entry.name in (b".gitignore", b".gitattributes"):
        _check_rules(name, 0)


def _check_rules(name: bytes, mode: int) -> None:
    """Raise OSError unless a file that git reads by itself is one that it can read: a pipe has no end."""
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(f"{os.fsdecode(name)}: its rules are not in a regular file")


def _sorted_out(work: Path, names: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Separate the names of files and links in real folders from those that are missing or something else."""
    top = os.fsencode(work)
    content: list[bytes] = []
    gone: list[bytes] = []
    real: dict[bytes, bool] = {b"": True}
    for path in names:
        mode = _mode(top, path) if _is_real(top, path.rpartition(b"/")[0], real) else 0
        (content if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else gone).append(path)
    return content, gone


def _is_real(top: bytes, folder: bytes, real: dict[bytes, bool]) -> bool:
    """Return whether a folder is real all the way down, without a link. `real` caches the answers."""
    if folder not in real:
        ends = [place for place, char in enumerate(folder) if char == ord("/")] + [len(folder)]
        before = True
        for part in (folder[:end] for end in ends):
            if part not in real:
                real[part] = before and stat.S_ISDIR(_mode(top, part))
                if real[part] and (rules := _mode(top, part + b"/.gitattributes")):
                    _check_rules(part, rules)
            before = real[part]
    return real[folder]


def _mode(top: bytes, path: bytes) -> int:
    try:
        return os.lstat(top + b"/" + path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _ignored(git: Git, names: Iterable[bytes]) -> set[bytes]:
    """Return the names that the folder's rules ignore."""
    asked = (b"./" + name for name in names)  # a leading colon would have a meaning
    return {name[2:] for name in read_names(git, "check-ignore", "-z", "--no-index", "--stdin", names=asked)}
