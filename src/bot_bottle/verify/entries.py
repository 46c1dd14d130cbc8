"""The entries of a root filesystem's tar, as values that can be compared."""

from __future__ import annotations

import hashlib
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping

from msgspec import Struct

from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import REGULAR, Headers

XATTR = "SCHILY.xattr."

_KINDS = {
    **dict.fromkeys(REGULAR, "file"),
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "folder",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "FIFO",
}


class EntryMetadata(Struct, frozen=True):
    """Metadata and content hash of a file of any kind. Names and numbers of untrusted size are text.

    `mtime` is in seconds, with a fraction where there is one. `content` is a file's SHA-256. `link` is a
    symlink's target. `xattrs` is JSON: the SHA-256 of each value by name.
    """

    kind: str
    mode: int = 0o755
    uid: str = "0"
    gid: str = "0"
    mtime: str = "0"
    size: int = 0
    content: str = ""
    link: bytes = b""
    device: str = ""
    xattrs: str = "{}"

    @property
    def special(self) -> bool:
        """Whether it is a device or a FIFO."""
        return self.kind.endswith("device") or self.kind == "FIFO"


class Entry(Struct, frozen=True):
    """A member of the tar: a file with its metadata, or another name (`hard_link`) of a file."""

    name: bytes
    facts: EntryMetadata | None
    hard_link: bytes = b""


def read_entries(stream: PieceStream, what: str) -> Iterator[Entry]:
    """Yield the members of a tar one by one. Raises ImageError, naming `what`, for one that is damaged."""
    headers = Headers(stream, what, strict_end=True)
    for member in headers:
        name = member.name.encode("utf-8", "surrogateescape")
        if member.type == tarfile.LNKTYPE:
            yield Entry(name, None, member.linkname.encode("utf-8", "surrogateescape"))
        else:
            yield Entry(name, _facts(member, headers))


def _facts(member: tarfile.TarInfo, headers: Headers) -> EntryMetadata:
    kind = _KINDS[member.type]
    content = ""
    if kind == "file":
        sha256 = hashlib.sha256()
        for piece in headers.data():
            sha256.update(piece)
        content = sha256.hexdigest()
    is_link, is_device = kind == "symlink", kind.endswith("device")
    return EntryMetadata(
        kind,
        mode=0o777 if is_link else member.mode & 0o7777,
        uid=str(member.uid),
        gid=str(member.gid),
        mtime=_time(member),
        size=member.size if kind == "file" else 0,
        content=content,
        link=member.linkname.encode("utf-8", "surrogateescape") if is_link else b"",
        device=f"{member.devmajor}:{member.devminor}" if is_device else "",
        xattrs=_xattrs(member.pax_headers),
    )


def _time(member: tarfile.TarInfo) -> str:
    fraction = member.pax_headers.get("mtime", "").partition(".")[2].rstrip("0")
    return f"{member.mtime}.{ascii(fraction)[1:-1]}" if fraction else str(member.mtime)


def _xattrs(records: Mapping[str, str]) -> str:
    found = {
        key.removeprefix(XATTR): hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()
        for key, value in records.items()
        if key.startswith(XATTR)
    }
    return json.dumps(found, sort_keys=True)


def plain(name: bytes) -> bytes:
    """Return an entry's path without `./`, double and last slashes; `..` and a first slash stay."""
    clean = posixpath.normpath(name) if b".." not in name.split(b"/") else name
    return b"" if clean in (b".", b"") else clean
