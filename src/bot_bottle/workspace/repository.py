"""The user's repository: found, checked, and read. It is untrusted too.

Links in a `.git` may lead to another user's history, so only a complete one is accepted. Nothing in it is run
(see git.py).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.text import printable
from bot_bottle.structs import replace
from bot_bottle.workspace.git import Git, check_version, init, user_settings
from bot_bottle.workspace.spec import find_top

OBJECT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CONVERSIONS = r"^core\.(autocrlf|eol|filemode|symlinks|ignorecase)$"
_SIMPLE = ("true", "false", "input", "lf", "crlf", "native")
_SMALL = 4096  # bytes of a file with a path
_BLOCK = 512  # bytes; the unit of st_blocks
_QUICK = 120.0  # seconds


class Repository(Struct, frozen=True):
    """A repository with a work tree. `folder` is its own git folder, `common` the one its worktrees share.

    `object_format` is the name of its hash: sha1 or sha256.
    """

    top: Path
    folder: Path
    common: Path
    object_format: str

    @property
    def git(self) -> Git:
        """git in the repository itself, only to read and write references."""
        return Git(self.folder, limit=_QUICK)

    @property
    def is_sparse(self) -> bool:
        """Whether only a part of its files is checked out (git-sparse-checkout(1))."""
        return self.git.run("config", "--type=bool", "core.sparseCheckout", check=False).text == "true"

    def clone_size(self) -> int:
        """Return the approximate size of a clone of what is checked out, in bytes: its objects and its files.

        Ignored files are not in a clone; holes of sparse files are not counted.
        """
        head = self.head()
        objects = sum(
            path.lstat().st_blocks * _BLOCK for path in (self.common / "objects").rglob("*") if path.is_file()
        )
        # MODE TYPE OBJECT SIZE, with - for a submodule or a missing object
        sizes = [line.split(None, 4)[3] for line in self.git.lines("ls-tree", "-r", "-l", head, check=False)]
        return objects + sum(int(size) for size in sizes if size.isdecimal())

    @contextmanager
    def explain_missing(self) -> Iterator[None]:
        """Explain git's failures in the block, if this is a partial clone."""
        try:
            yield
        except WorkspaceError as error:
            if error.next_step or not any((self.common / "objects/pack").glob("*.promisor")):
                raise
            raise WorkspaceError(
                f"{self.top} is a partial clone, and needed objects are missing",
                why=f"{error.message}: {error.why}",
                next_step="get them with git fetch --refetch --no-filter, or use --workspace mount",
            ) from error

    @property
    def conversions(self) -> tuple[str, ...]:
        """The settings that change files between the folder and git's objects, as `KEY=VALUE`."""
        found = user_settings(self.top, _CONVERSIONS, timeout=_QUICK)
        return tuple(f"{key}={value}" for key, value in found.items() if value.lower() in _SIMPLE)

    def head(self) -> str:
        """Return the commit that is checked out. Raises WorkspaceError if there is none yet."""
        done = self.git.run("rev-parse", "--verify", "-q", "HEAD^{commit}", check=False)
        if done.code or not OBJECT_ID.fullmatch(done.text):
            raise WorkspaceError(
                f"{self.top} has no commit yet",
                next_step="commit something first, or use --workspace mount",
            )
        return done.text

    def references(self, *patterns: str) -> dict[str, str]:
        """Return the object of every matching reference, by the reference's name."""
        found = {}
        for line in self.git.lines("for-each-ref", "--format=%(objectname) %(refname)", *patterns):
            value, _, name = line.partition(" ")
            found[name] = value
        return found

    def checked_out(self) -> set[str]:
        """Return the references that are checked out in the repository or in a worktree of it."""
        lines = self.git.lines("worktree", "list", "--porcelain")
        return {line.removeprefix("branch ") for line in lines if line.startswith("branch ")}

    def update(self, references: dict[str, tuple[str, str]]) -> None:
        """Set references from an old to a new value, all or none; "" means that there is no reference.

        Raises WorkspaceError, also when one of them has been changed meanwhile.
        """
        none = "0" * (40 if self.object_format == "sha1" else 64)
        commands = []
        for name, (old, new) in references.items():
            if new:
                commands.append(f"update {name}\0{new}\0{old or none}\0")
            elif old:
                commands.append(f"delete {name}\0{old}\0")
        text = "".join(commands).encode("utf-8", "surrogateescape")
        if text:
            self.git.run("update-ref", "-m", "bottle", "--stdin", "-z", input=text)

    def with_shared_objects(self, folder: Path) -> Git:
        """Return git on a new folder of ours that reads and writes only this repository's objects."""
        return replace(self._fresh(folder), objects=self.common / "objects")

    def with_alternate(self, folder: Path) -> Git:
        """Return git on a new folder of ours that reads this repository's objects and writes to its own."""
        git = self._fresh(folder)
        path = os.fsencode(self.common / "objects")
        # quoted as in gitattributes(5): \ooo is an octal escape
        quoted = b"".join(b"\\%03o" % byte for byte in path)
        (folder / "objects/info/alternates").write_bytes(b'"' + quoted + b'"\n')
        return git

    def _fresh(self, folder: Path) -> Git:
        git = init(folder, self.object_format)
        shallow = self.common / "shallow"
        if shallow.is_file():
            (folder / "shallow").write_bytes(shallow.read_bytes())
        return git


def open_repository(start: Path) -> Repository:
    """Return the repository of a folder. Raises WorkspaceError if there is none, or it cannot be used."""
    check_version()
    top = find_top(start)
    if not start.is_dir():
        raise WorkspaceError(f"no folder {start.absolute()}", next_step="give the folder of a repository")
    if top is None:
        raise WorkspaceError(
            f"not a git repository: {start.absolute()}",
            next_step="git init and commit, or use --workspace mount",
        )
    entry = top / ".git"
    mode = entry.lstat().st_mode
    if stat.S_ISDIR(mode):
        folder = common = entry
        if os.path.lexists(entry / "commondir"):
            raise _refused(entry, "it names another git folder")
    elif stat.S_ISREG(mode):
        folder, common = _elsewhere(entry)
    else:
        raise _refused(entry, "it is neither a folder nor a file")
    _check_whole(folder, common)
    object_format = Git(folder, limit=_QUICK).run("rev-parse", "--show-object-format").text
    return Repository(top, folder, common, object_format)


def _refused(entry: Path, why: str) -> WorkspaceError:
    return WorkspaceError(
        printable(f"{entry} is not used: {why}"), why="it may lead to another user's history"
    )


def _elsewhere(entry: Path) -> tuple[Path, Path]:
    """Follow a `.git` file (gitrepository-layout(5)) to a git folder that lists it as its worktree."""
    words = _path_in(entry)
    if not words.startswith("gitdir: "):
        raise _refused(entry, "it does not name a git folder")
    folder = (entry.parent / words.removeprefix("gitdir: ")).resolve()
    if not os.path.lexists(folder / "commondir"):
        return _submodule(entry, folder)
    common = (folder / _path_in(folder / "commondir")).resolve()
    known = folder.parent == common / "worktrees"
    # relative to the folder itself, as `git worktree add --relative-paths` writes it
    if not known or (folder / _path_in(folder / "gitdir")).resolve() != entry.resolve():
        raise _refused(entry, f"it is not a registered worktree of {folder}")
    return folder, common


def _submodule(entry: Path, folder: Path) -> tuple[Path, Path]:
    done = Git(folder).run(
        "config", "--file", folder / "config", "--no-includes", "core.worktree", check=False
    )
    if not done.text or (folder / done.text).resolve() != entry.parent.resolve():
        raise _refused(entry, f"it is not the work tree of {folder}")
    return folder, folder


def _path_in(file: Path) -> str:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise _refused(file, "it is not a regular file")
        with file.open("rb") as opened:
            return os.fsdecode(opened.read(_SMALL)).rstrip("\n")
    except OSError as error:
        raise _refused(file, error.strerror or str(error)) from error


def _check_whole(folder: Path, common: Path) -> None:
    """Raise WorkspaceError unless a git folder keeps its objects and references in itself, in plain files."""
    objects = common / "objects"
    named = ("config", "packed-refs", "refs", "refs/heads", "shallow")
    try:
        parts = [folder / "HEAD", folder / "index", *(common / name for name in named)]
        parts += [objects, *objects.iterdir(), *(objects / "pack").glob("*"), *(objects / "info").glob("*")]
    except OSError as error:
        raise WorkspaceError(f"{common} is not a git folder", why=str(error)) from error
    for path in parts:
        if path.is_symlink():
            raise _refused(path, "it is a link")
        if os.path.lexists(path) and not (path.is_file() or path.is_dir()):
            raise _refused(path, "it is neither a file nor a folder")
    for name in ("alternates", "http-alternates"):
        if os.path.lexists(objects / "info" / name):
            raise WorkspaceError(
                f"{common} uses objects of another repository",
                next_step="make it independent: git repack -a -d && rm .git/objects/info/alternates",
            )
