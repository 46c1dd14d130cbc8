"""Headers of the tar that is written: GNU format, PAX where an entry needs it.

The size of a header is known without making it, so that the size of the whole is known beforehand.
Source: GNU tar manual, "Basic Tar Format"; POSIX.1-2017 pax.
"""

from __future__ import annotations

import struct
import tarfile

from bot_bottle.rootfs.tree import Inode
from bot_bottle.tar.reader import BLOCK, checksum, padded

END = bytes(2 * BLOCK)
_FIELD = 100  # bytes of the name fields in a header
_OCTAL_MAX = 0o7777777  # of an owner,
_SIZE_MAX = 0o77777777777  # and of a size or time, in octal digits
_BLOCK = struct.Struct("100s8s8s8s12s12s8sc100s8s247x")


def header(path: bytes, node: Inode, link: bytes | None = None) -> bytes:
    """Make the header of an entry; with `link` that of a hard link to it."""
    if not node.xattrs and not node.device and not isinstance(node.mtime, str):
        plain = _plain(path, node, link)
        if plain is not None:
            return plain
    info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
    info.mode, info.uid, info.gid = node.mode, node.uid, node.gid
    info.uname = info.gname = ""
    records = {}
    if isinstance(node.mtime, str):
        records["mtime"] = node.mtime  # the header itself has whole seconds
        info.mtime = int(node.mtime.partition(".")[0])
    else:
        info.mtime = node.mtime
    if link is not None:
        info.type = tarfile.LNKTYPE
        info.linkname = link.decode("utf-8", "surrogateescape")
    else:
        info.type = node.kind
        info.linkname = node.link.decode("utf-8", "surrogateescape")
        info.size = node.size
        if node.device:
            info.devmajor, info.devminor = node.device
        records.update(node.xattrs or ())
    info.pax_headers = records
    return info.tobuf(
        tarfile.PAX_FORMAT if records else tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    )


def _plain(path: bytes, node: Inode, link: bytes | None) -> bytes | None:
    """Make the most usual kind of header, the one that the standard library would make; None for others."""
    kind, size, target = (node.kind, node.size, node.link) if link is None else (tarfile.LNKTYPE, 0, link)
    if kind == tarfile.DIRTYPE:
        path += b"/"
    if len(path) > _FIELD or len(target) > _FIELD or max(node.uid, node.gid) > _OCTAL_MAX or size > _SIZE_MAX:
        return None
    assert isinstance(node.mtime, int)  # noqa: S101 - the caller has looked
    if not 0 <= node.mtime <= _SIZE_MAX:
        return None
    block = _BLOCK.pack(
        path, b"%07o" % (node.mode & 0o7777), b"%07o" % node.uid, b"%07o" % node.gid, b"%011o" % size,
        b"%011o" % node.mtime, b"        ", kind, target, b"ustar  ",
    )  # fmt: skip
    return b"%b%06o\0 %b" % (block[:148], checksum(block), block[156:])


def header_size(path: bytes, node: Inode, link: bytes | None = None) -> int:
    """Return the size of what `header` makes, in bytes."""
    if node.xattrs or isinstance(node.mtime, str):
        return len(header(path, node, link))
    name = len(path) + (node.kind == tarfile.DIRTYPE)
    return BLOCK + _long(name) + _long(len(node.link if link is None else link))


def _long(length: int) -> int:
    return BLOCK + padded(length + 1) if length > _FIELD else 0
