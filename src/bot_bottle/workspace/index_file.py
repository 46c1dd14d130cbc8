"""What the index of a clone of ours records of its files, written so that git need not read them again.

git takes a file for unchanged when all that lstat(2) says of it is as recorded, its owner too, and when it is
older than the index: one that is not may have been changed since (gitformat-index(5); racy-git in git's
technical documentation). A bottle may see other owners than this machine, and what was checked out in the
second in which the index was written is not older. Either makes git read every file, which is slow where a
bottle reads them through a share.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.files import replace_file

_HEADER = struct.Struct(">4sII")  # signature, version, number of entries
_STAT = struct.Struct(">10I")  # ctime, mtime (seconds, nanoseconds), device, inode, mode, uid, gid, size
_OWNER, _OWNER_AT = struct.Struct(">2I"), 28
_FLAGS = struct.Struct(">H")
_VERSIONS = (2, 3)  # the fourth compresses names; git writes it only when it is asked to
_EXTENDED = 1 << 14  # a flag: two more bytes of flags follow


class IndexFile(Struct, frozen=True):
    """The index of a clone in which nobody has worked."""

    path: Path
    object_format: str

    def record_owner(self, uid: int, gid: int) -> None:
        """Record that all files are of this user and this group.

        It is as new as that: call it when nobody has had the files yet, in a later second than that of the
        checkout. Raises WorkspaceError, OSError.
        """
        mode = stat.S_IMODE(self.path.stat().st_mode)
        data = bytearray(self.path.read_bytes())
        for at in self._entries(data):
            _OWNER.pack_into(data, at + _OWNER_AT, uid, gid)
        size = self._digest(b"").digest_size
        data[-size:] = self._digest(data[:-size]).digest()
        replace_file(self.path, bytes(data), self.path.with_name("index.partial"), mode)

    def _entries(self, data: bytearray) -> Iterator[int]:
        """Yield where each entry begins."""
        object_size = self._digest(b"").digest_size
        try:
            signature, version, count = _HEADER.unpack_from(data)
            if signature != b"DIRC" or version not in _VERSIONS:
                raise ValueError(f"version {version}")
            at = _HEADER.size
            for _ in range(count):
                start = at + _STAT.size + object_size
                [flags] = _FLAGS.unpack_from(data, start)
                start += _FLAGS.size * (2 if flags & _EXTENDED else 1)
                end = data.index(0, start)
                yield at
                at += (end - at + 8) // 8 * 8  # one to eight zeros follow the name
        except (struct.error, ValueError) as error:
            raise WorkspaceError(f"{self.path} cannot be read as an index", why=str(error)) from error

    def _digest(self, data: bytes | bytearray) -> hashlib._Hash:
        return hashlib.new(self.object_format, data, usedforsecurity=False)
