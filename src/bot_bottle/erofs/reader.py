"""Files read out of an uncompressed EROFS image that nobody vouches for.

Source: Linux, Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bot_bottle.erofs import format as f
from bot_bottle.errors import ArtifactError

_FOLDER_LIMIT = 1 << 27  # bytes of one folder's names: more than the writer makes


class _Inode(NamedTuple):
    mode: int
    layout: int
    size: int
    block: int
    tail: int  # where its data goes on behind it


def read_file(image: Path, name: bytes, limit: int) -> bytes | None:
    """Return a regular file of an image; None when the path has none of at most `limit` bytes.

    Symlinks are not followed. Raises ArtifactError for a damaged image, OSError.
    """
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return _Image(fd).read(name, limit)
    except struct.error as error:
        raise _damaged("it is cut short") from error
    finally:
        os.close(fd)


class _Image:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        fields = f.SUPERBLOCK.unpack(os.pread(fd, f.SUPERBLOCK.size, f.SUPERBLOCK_OFFSET))
        magic, bits, self._root, incompatible = fields[0], fields[3], fields[5], fields[14]
        if magic != f.MAGIC or bits != f.BLOCK_BITS or incompatible:
            raise _damaged("it is not an EROFS image of the kind that is written here")
        self._base = fields[10] * f.BLOCK

    def read(self, name: bytes, limit: int) -> bytes | None:
        inode = self._inode(self._root)
        for part in name.split(b"/"):
            if not stat.S_ISDIR(inode.mode):
                return None
            nid = self._find(inode, part)
            if nid is None:
                return None
            inode = self._inode(nid)
        if not stat.S_ISREG(inode.mode) or inode.size > limit:
            return None
        return b"".join(self._data(inode))

    def _inode(self, nid: int) -> _Inode:
        at = self._base + nid * f.SLOT
        if at > self._size:
            raise _damaged("an inode is outside of it")
        fields = f.INODE.unpack(os.pread(self._fd, f.INODE.size, at))
        form, count, mode, size, block = fields[0], fields[1], fields[2], fields[4], fields[5]
        layout = form >> 1
        if not form & f.EXTENDED or layout not in (f.PLAIN, f.INLINE):
            raise _damaged("an inode of another kind")
        xattrs = f.XATTR_HEADER.size + (count - 1) * f.XATTR_ALIGN if count else 0
        return _Inode(mode, layout, size, block, at + f.INODE.size + xattrs)

    def _data(self, inode: _Inode) -> Iterator[bytes]:
        """Yield an inode's data block by block."""
        if inode.size > self._size:
            raise _damaged("a file is larger than the image")
        whole = inode.size - inode.size % f.BLOCK if inode.layout == f.INLINE else inode.size
        for begin in range(0, inode.size, f.BLOCK):
            at = inode.block * f.BLOCK + begin if begin < whole else inode.tail
            count = min(f.BLOCK, inode.size - begin)
            data = os.pread(self._fd, count, at)
            if len(data) < count:
                raise _damaged("it is cut short")
            yield data

    def _find(self, folder: _Inode, name: bytes) -> int | None:
        if folder.size > _FOLDER_LIMIT:
            raise _damaged("a folder is too large")
        for block in self._data(folder):
            for entry, nid in _entries(block):
                if entry == name:
                    return nid
        return None


def _entries(block: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the names in a block of a folder, and their nids."""
    nid, begin, _, _ = f.DIRENT.unpack_from(block)
    count = begin // f.DIRENT.size
    for number in range(count):
        end = len(block)
        following = 0, end, 0, 0
        if number + 1 < count:
            following = f.DIRENT.unpack_from(block, (number + 1) * f.DIRENT.size)
            end = following[1]
        yield block[begin:end].partition(b"\0")[0], nid
        nid, begin = following[:2]


def _damaged(why: str) -> ArtifactError:
    return ArtifactError("the root image is damaged", why=why)
