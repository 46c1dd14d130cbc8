"""What agents leave for the next bottle: one tar file for each repository and agent, never unpacked here.

A bottle brings back a tar that its guest has made, so it is hostile. The file is written anew from it, with
regular files at the paths of the agent's profile and nothing else: no links, devices, owners, extended
attributes or modes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.errors import AgentError, ImageError
from bot_bottle.host import paths
from bot_bottle.host.files import open_folder, open_regular, write_replacement
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import BLOCK, REGULAR, Headers, padded

LIMIT = 256 << 20  # bytes of such a tar, and of the files in it
MOST = 20_000  # entries of it

_PIECE = 1 << 20
_SUFFIX = ".tar"
_LONGEST_PATH, _LONGEST_NAME = 4095, 255  # bytes: limits.h
_LATEST = (1 << 33) - 1  # seconds since 1970: eleven octal digits of a header
# files of a SQLite database: those of another copy of it would damage it
_BESIDE = ("-wal", "-shm", "-journal")


class Kept(Struct, frozen=True):
    """How much is kept of an agent: files, bytes, and when it was last written (seconds since 1970)."""

    files: int
    size: int
    time: float


class State(Struct, frozen=True):
    """What is kept of an agent in one repository, whose top folder is `repository`.

    `paths` are files and folders of $HOME; what is in `without` is not kept.
    """

    repository: Path
    agent: str
    paths: tuple[str, ...]
    without: frozenset[str] = frozenset()

    def kept(self) -> Kept | None:
        """Return how much is kept; None for nothing. Raises AgentError where it cannot be read."""
        with self._opened() as file:
            if file is None:
                return None
            sizes = [member.size for member, _ in self._members_of(file)]
            return Kept(len(sizes), sum(sizes), os.fstat(file.fileno()).st_mtime)

    def copy_to(self, target: BinaryIO) -> int:
        """Copy the tar to an open file, and return its size in bytes: 0 if nothing is kept."""
        with self._opened() as file:
            if file is None:
                return 0
            shutil.copyfileobj(file, target, _PIECE)
            return target.tell()

    def keep(self, brought: BinaryIO) -> None:
        """Keep what a bottle brought back, a tar: each file replaces the one before it, and others stay.

        Raises AgentError where that is damaged or too large, or OSError: then all is as it was before.
        """
        base = _base()
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive_lock(base / "lock", lambda: None), self._opened() as before:
            folder = _folder(self.repository)
            folder.mkdir(mode=0o700, exist_ok=True)
            with write_replacement(folder / f"{self.agent}{_SUFFIX}", folder / "partial") as target:
                written = _Writer(target)
                for member, data in _members(brought, "what the bottle brought back"):
                    if self._is_kept(member.name):
                        written.add(member, data)
                new = written.names.copy()
                for member, data in self._members_of(before):
                    if not any(member.name.removesuffix(end) in new for end in _BESIDE):
                        written.add(member, data)
                target.write(bytes(2 * BLOCK))

    def _members_of(self, file: BinaryIO | None) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
        what = f"the state of {self.agent} in {_folder(self.repository)}"
        return _members(file, what, "bottle rm --state removes it") if file is not None else iter(())

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO | None]:
        """Yield the tar, or None where there is none."""
        with ExitStack() as stack:
            file = None
            with suppress(FileNotFoundError):
                folder = stack.enter_context(open_folder(_folder(self.repository)))
                file = stack.enter_context(open_regular(f"{self.agent}{_SUFFIX}", folder))
            yield file

    def _is_kept(self, name: str) -> bool:
        """Return whether a file of this name is kept: at one of the paths, and such as Linux can have."""
        whole = os.fsencode(name)
        parts = whole.split(b"/")
        if {b"", b".", b".."} & {*parts} or b"\0" in whole or len(whole) > _LONGEST_PATH:
            return False
        if max(map(len, parts)) > _LONGEST_NAME or name in self.without:
            return False
        return any(name == path or name.startswith(f"{path}/") for path in self.paths)


def remove(repository: Path, agent: str | None = None) -> list[str]:
    """Remove what is kept in a repository of an agent, or of all, and return their names. Raises OSError."""
    base, folder = _base(), _folder(repository)
    if not folder.is_dir():
        return []
    with exclusive_lock(base / "lock", lambda: None):
        found = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
        removed = [path for path in found if agent in (None, path.stem)]
        for path in removed:
            path.unlink()
        if found == removed:
            shutil.rmtree(folder)  # with what a killed command left
    return [path.stem for path in removed]


class _Writer:
    """Writes files into a tar, the first of a name only. Raises AgentError for too many or too much."""

    def __init__(self, target: BinaryIO) -> None:
        self.names: set[str] = set()
        self._target = target
        self._folders: set[str] = set()
        self._size = 2 * BLOCK

    def add(self, member: tarfile.TarInfo, data: Iterator[bytes]) -> None:
        """Add a file, unless its name, or one above it, is another file's already."""
        name = member.name
        above = {name[: found.start()] for found in re.finditer("/", name)}
        if name in self.names or name in self._folders or above & self.names:
            return
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = member.size, 0o600, min(max(int(member.mtime), 0), _LATEST)
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self.names.add(name)
        self._folders |= above
        self._size += len(header) + padded(info.size)
        if self._size > LIMIT or len(self.names) > MOST:
            raise _too_large()
        self._target.write(header)
        for piece in data:
            self._target.write(piece)
        self._target.write(bytes(padded(info.size) - info.size))


def _members(
    file: BinaryIO, what: str, next_step: str = ""
) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Yield the regular files of a tar, and their data. Raises AgentError, also for too many or too much."""
    headers = Headers(PieceStream(iter(lambda: file.read(_PIECE), b"")), what, strict_end=True)
    size = os.fstat(file.fileno()).st_size
    try:
        for number, member in enumerate(headers):
            size += member.size if headers.extents is not None else 0  # holes are written as zeros
            if size > LIMIT or number >= MOST:
                raise _too_large()
            if member.type in REGULAR:
                yield member, headers.data()
    except ImageError as error:
        raise AgentError(error.message, why=error.why, next_step=next_step) from error


def _too_large() -> AgentError:
    return AgentError(
        f"it is larger than {LIMIT >> 20} MiB, or more than {MOST} entries",
        next_step="remove what is kept with bottle rm --state, or run the agent with --no-state",
    )


def _base() -> Path:
    return paths.state_dir() / "agent-state"


def _folder(repository: Path) -> Path:
    """Return the folder of a repository: by where that is, which nothing in it can change."""
    name = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:32]
    return _base() / name
