"""The files of an archive by name, whether it is one tar file or a folder. Nothing is extracted.

A tar is indexed once, by its headers; its members are then byte ranges of it. Names in a manifest or symlink
that lead outside the archive are errors.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from bot_bottle.errors import ImageError
from bot_bottle.host.text import is_printable, printable
from bot_bottle.image.layers import Blob
from bot_bottle.tar.reader import REGULAR, Headers

DOCUMENT_LIMIT = 4 << 20  # bytes of one JSON document
_MEMBER_LIMIT = 100_000
_LINK_LIMIT = 16


class Members(Protocol):
    """Finds the files of an archive."""

    def find(self, name: str) -> Blob | None:
        """Return a regular file by its relative name, or None. Raises ImageError for a name outside."""


def document(members: Members, name: str) -> bytes | None:
    """Return the content of a small file, or None if it is missing. Raises ImageError if it is too large."""
    blob = members.find(name)
    return None if blob is None else whole(blob, name)


def whole(blob: Blob, name: str) -> bytes:
    """Return the content of a small blob. Raises ImageError when it is too large or truncated."""
    if blob.size > DOCUMENT_LIMIT:
        raise ImageError(f"{name!r} in the archive is too large", why=f"{blob.size} bytes of JSON")
    data = blob.pread(blob.size, 0)
    if len(data) < blob.size:
        raise ImageError(f"{name!r} in the archive is cut short")
    return data


class FolderMembers:
    """The files of a folder. Opened files are closed with `stack`."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self._root = Path(os.path.realpath(root))
        self._stack = stack
        self._known: dict[str, Blob] = {}

    def find(self, name: str) -> Blob | None:
        """Return a regular file by its relative name, or None. Raises ImageError for a name outside."""
        name = inside(name)
        if name not in self._known:
            path = Path(os.path.realpath(self._root / name))
            if not path.is_relative_to(self._root):
                raise ImageError("the archive has a link to a file outside itself", why=repr(name[:200]))
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise ImageError(f"cannot read {path}", why=error.strerror or str(error)) from error
            self._stack.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            self._known[name] = Blob(fd, 0, status.st_size)
        return self._known[name]


class TarMembers:
    """The files of an uncompressed tar file, open as `fd`."""

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        stream = _FileStream(fd)
        headers = Headers(stream, what, strict_end=True)
        for count, member in enumerate(headers):
            if count >= _MEMBER_LIMIT:
                raise ImageError(f"{what} has more than {_MEMBER_LIMIT} members", why="not an image archive")
            if headers.extents is None:  # no engine saves sparse members
                self._add(member)

    def _add(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        self._files.pop(name, None)
        self._links.pop(name, None)
        if member.issym():
            self._links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
        elif member.islnk():
            self._links[name] = member.linkname
        elif member.type in REGULAR:
            self._files[name] = (member.offset_data, member.size)

    def find(self, name: str) -> Blob | None:
        """Return a regular file by its relative name, or None. Raises ImageError for a name outside."""
        name = inside(name)
        for _ in range(_LINK_LIMIT):
            if name not in self._links:
                break
            name = inside(self._links[name])
        found = self._files.get(name)
        return None if found is None else Blob(self._fd, *found)


def inside(name: str) -> str:
    """Return a relative name without `.` and `..`. Raises ImageError when it is absolute or leads outside."""
    clean = posixpath.normpath(name)
    if clean.startswith(("/", "../")) or clean == "..":
        raise ImageError("the archive names a file outside itself", why=repr(name[:200]))
    if not is_printable(clean):
        raise ImageError("the archive has an invalid name", why=repr(name[:200]))
    return clean


def shown(text: str) -> str:
    """Return text from an archive for an error message, on one line and shortened."""
    return printable(text, limit=200)


class _FileStream:
    """A file read in order from its beginning, for headers: data is skipped without being read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._position = 0

    def read(self, count: int, /) -> bytes:
        data = os.pread(self._fd, count, self._position)
        self._position += len(data)
        return data

    def skip(self, count: int, /) -> int:
        count = min(count, self._size - self._position)
        self._position += count
        return count
