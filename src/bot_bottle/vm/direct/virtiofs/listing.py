"""The listing of a folder."""

from __future__ import annotations

import os

from bot_bottle.vm.direct.virtiofs import protocol

Entry = tuple[bytes, int, int]
"""A name, an inode number, and the kind of a file."""


def entries_of(folder: int, own: int) -> list[Entry]:
    """Return the entries of a folder that is open, whose own inode number is `own`. Raises OSError."""
    found = [(b".", own, protocol.FOLDER_TYPE), (b"..", own, protocol.FOLDER_TYPE)]
    with os.scandir(folder) as entries:
        found += [(os.fsencode(entry.name), entry.inode(), _kind(entry)) for entry in entries]
    return found


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return protocol.LINK_TYPE
    if entry.is_dir(follow_symlinks=False):
        return protocol.FOLDER_TYPE
    return protocol.FILE_TYPE if entry.is_file(follow_symlinks=False) else 0
