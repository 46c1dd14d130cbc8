"""Folders of an image: held in memory until all members are there, then laid out in blocks of names.

Source: Linux, Documentation/filesystems/erofs.rst, "Directories".
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple

from bot_bottle.erofs.format import BLOCK, DIRENT, FILE_TYPES

FOLDER_TYPE = FILE_TYPES[stat.S_IFDIR]


class Attributes(NamedTuple):
    """An inode's mode with its type, owner, time of change in seconds and nanoseconds, and xattr body."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    nanoseconds: int = 0
    xattrs: bytes = b""


DEFAULT_FOLDER = Attributes(stat.S_IFDIR | 0o755)


class Folder:
    """A folder. A child of another kind is an int: its nid and, in the lowest three bits, its type."""

    __slots__ = ("attributes", "children", "nid", "parent", "size", "subfolders")

    def __init__(self, parent: Folder | None = None) -> None:
        self.parent = parent or self
        self.attributes = DEFAULT_FOLDER
        self.children: dict[bytes, Folder | int] = {}
        self.nid = self.size = self.subfolders = 0

    def measure(self) -> None:
        """Set `size` in bytes, and the number of subfolders."""
        full = used = 0
        for name in self._names():
            need = DIRENT.size + len(name)
            if used + need > BLOCK:
                full, used = full + 1, 0
            used += need
        self.size = full * BLOCK + used
        self.subfolders = sum(isinstance(child, Folder) for child in self.children.values())

    def blocks(self) -> Iterator[bytes]:
        """Yield the content, block by block without their padding. All nids must be set."""
        names: list[bytes] = []
        used = 0
        for name in self._names():
            need = DIRENT.size + len(name)
            if used + need > BLOCK:
                yield self._block(names)
                names, used = [], 0
            names.append(name)
            used += need
        yield self._block(names)

    def _names(self) -> list[bytes]:
        return sorted([b".", b"..", *self.children])

    def _block(self, names: list[bytes]) -> bytes:
        at = DIRENT.size * len(names)
        entries = []
        for name in names:
            nid, kind = self._entry(name)
            entries.append(DIRENT.pack(nid, at, kind, 0))
            at += len(name)
        return b"".join(entries) + b"".join(names)

    def _entry(self, name: bytes) -> tuple[int, int]:
        if name == b".":
            return self.nid, FOLDER_TYPE
        if name == b"..":
            return self.parent.nid, FOLDER_TYPE
        child = self.children[name]
        if isinstance(child, Folder):
            return child.nid, FOLDER_TYPE
        return child >> 3, child & 7


def all_folders(root: Folder) -> list[Folder]:
    """Return a folder and all below it, each before those in it."""
    found = [root]
    for folder in found:  # which grows meanwhile
        found += [child for child in folder.children.values() if isinstance(child, Folder)]
    return found
