"""Tar headers of an untrusted forward stream.

The standard library parses a single header (`TarInfo.frombuf`); extended headers are parsed here: `TarFile`
accepts a truncated archive, reads a header of any size into memory, and searches PAX records with patterns of
quadratic time. Here each member has a bounded number of header bytes, positions only go forward, and anything
but a valid header or a valid end is an ImageError.

Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar
Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import Protocol

from bot_bottle.errors import ImageError
from bot_bottle.tar import sparse

BLOCK = 512
HEADER_LIMIT = 1 << 20  # bytes of headers one member may have; Go's reader, and so the engines, has the same
_SIZE_LIMIT = 1 << 62
_PIECE = 1 << 20

REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE})
_PLAIN = REGULAR | {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
_ZEROS = bytes(BLOCK)
_NUMBERS = re.compile(rb"(?:[0-7]{7}[\0 ]){3}(?:[0-7]{11}[\0 ]){2}[0-7]{6}[\0 ]{2}")  # mode to checksum
_GNU_MAGIC = b"ustar "

Records = dict[str, str]


class ForwardStream(Protocol):
    """What a tar is read from: bytes in order, some of them skipped."""

    def read(self, count: int, /) -> bytes:
        """Return `count` bytes, fewer only at the end."""

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes; return how many there were."""


class Headers:
    """The members of one tar stream as TarInfo objects, one after another; none is stored.

    `name` and `linkname` have the archive's bytes (UTF-8 with surrogateescape), `pax_headers` the member's
    own records: engines ignore global ones, so they are skipped. `offset_data` is where the data begins. If
    the current member is a sparse file, `extents` has the positions of its data.

    `what` names the stream in errors. With `strict_end` the stream must have its end mark; without, it may
    also end where a header would begin, as some builders write layers.
    """

    def __init__(self, stream: ForwardStream, what: str, *, strict_end: bool = False) -> None:
        self._stream = stream
        self._what = what
        self._strict_end = strict_end
        self._position = 0
        self._budget = HEADER_LIMIT
        self.extents: sparse.Extents | None = None
        self._size = 0  # bytes of the current member, holes included
        self._held = 0  # bytes of data that follow its headers

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            following = self._position + padded(self._held)
            yield member
            self._skip(following - self._position)

    def data(self) -> Iterator[bytes]:
        """Yield the current member's data in pieces, holes as zeros; what is not read is skipped."""
        at = 0
        for offset, length in self.extents if self.extents is not None else ((0, self._held),):
            yield from sparse.zeros(offset - at)
            left = length
            while left:
                piece = self._stream.read(min(left, _PIECE))
                if not piece:
                    raise self._cut()
                self._position += len(piece)
                left -= len(piece)
                yield piece
            at = offset + length
        yield from sparse.zeros(self._size - at)

    def _next(self) -> tarfile.TarInfo | None:
        self._budget = HEADER_LIMIT
        self.extents = None
        records: Records = {}
        names: dict[bytes, str] = {}
        while True:
            block = self._block(may_end=not records and not names)
            if block is None:
                return None
            info = self._parsed(block)
            if info.type in _PLAIN:
                return self._member(info, block, records, names)
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                records = self._records(self._extension(info))
            elif info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                names[info.type] = _text(self._extension(info).partition(b"\0")[0])
            elif info.type == tarfile.XGLTYPE:
                self._skip(padded(info.size))
            else:
                raise self._damaged(f"a member of unknown type {info.type!r}: {info.name[:200]!r}")

    def _block(self, *, may_end: bool) -> bytes | None:
        """Read one header block; None at the end of the archive."""
        block = self._read(BLOCK)
        if len(block) == BLOCK and block != _ZEROS:
            return block
        if not may_end or 0 < len(block) < BLOCK:
            raise self._cut()
        if self._strict_end and (not block or self._read(BLOCK) != _ZEROS):
            raise self._cut()
        return None

    def _parsed(self, block: bytes) -> tarfile.TarInfo:
        if (plain := _plain(block)) is not None:
            return plain
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            raise self._damaged(f"bad header before byte {self._position}: {error}") from error
        if not 0 <= info.size <= _SIZE_LIMIT:
            raise self._damaged(f"an impossible size: {info.name[:200]!r}")
        if block[345] and block.startswith(_GNU_MAGIC, 257):
            # in GNU headers these bytes are not a prefix of the name but times, which frombuf does not
            # support
            info.name = _text(block[:100].partition(b"\0")[0])
        return info

    def _member(
        self, info: tarfile.TarInfo, block: bytes, records: Records, names: dict[bytes, str]
    ) -> tarfile.TarInfo:
        if records:
            self._apply(info, records)
        if names:
            info.name = names.get(tarfile.GNUTYPE_LONGNAME, info.name)
            info.linkname = names.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
        if info.type == tarfile.AREGTYPE and info.name.endswith("/"):
            info.type = tarfile.DIRTYPE  # as tars older than POSIX mark folders
        self._held = info.size if info.type in REGULAR else 0
        if info.type == tarfile.GNUTYPE_SPARSE or not sparse.SIZES.isdisjoint(records):
            self._sparse(info, block, records)
        self._size = info.size if info.type in REGULAR else 0
        info.offset_data = self._position
        return info

    def _sparse(self, info: tarfile.TarInfo, block: bytes, records: Records) -> None:
        """Parse the map of a sparse file, and its size with the holes."""
        begin = self._position
        try:
            if info.type == tarfile.GNUTYPE_SPARSE:
                info.size, extents = sparse.old_gnu(block, self._more)
                begin = self._position  # the further blocks of the map are headers here, not data
            else:
                info.size, extents = sparse.pax(records, self._more)
        except ValueError as error:
            raise self._damaged(f"a bad sparse map: {info.name[:200]!r}") from error
        self._held -= self._position - begin
        end = held = 0
        for offset, length in extents:
            if length < 0 or offset < end:
                raise self._damaged(f"a sparse map that overlaps: {info.name[:200]!r}")
            end = offset + length
            held += length
        if not end <= info.size <= _SIZE_LIMIT or held > self._held:
            raise self._damaged(f"a sparse file with an impossible size: {info.name[:200]!r}")
        self.extents = tuple((offset, length) for offset, length in extents if length)

    def _apply(self, info: tarfile.TarInfo, records: Records) -> None:
        """Apply PAX records to the fields; an empty record leaves the header's value, as in the engines."""
        info.pax_headers = records
        info.name = records.get("GNU.sparse.name") or records.get("path") or info.name
        info.linkname = records.get("linkpath") or info.linkname
        try:
            info.size = int(records.get("size") or info.size)
            info.uid = int(records.get("uid") or info.uid)
            info.gid = int(records.get("gid") or info.gid)
            info.mtime = int(records.get("mtime", "").partition(".")[0] or info.mtime)
        except ValueError as error:
            raise self._damaged(f"an invalid PAX number: {error}") from error
        if not 0 <= info.size <= _SIZE_LIMIT:
            raise self._damaged(f"an impossible size: {info.name[:200]!r}")

    def _records(self, data: bytes) -> Records:
        """Parse PAX records, each `length key=value` and a newline, its length counting itself."""
        records: Records = {}
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 20)
            digits = data[at:space] if space > 0 else b""
            end = at + int(digits) if digits.isdigit() else 0
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
                raise self._damaged("bad PAX records")
            name = _text(key)
            if name in sparse.REPEATED:
                records[name] = f"{records[name]},{_text(value)}" if name in records else _text(value)
            else:
                records[name] = _text(value)
            at = end
        return records

    def _extension(self, info: tarfile.TarInfo) -> bytes:
        data = self._read(padded(info.size))
        if len(data) < info.size:
            raise self._cut()
        return data[: info.size]

    def _more(self) -> bytes:
        block = self._read(BLOCK)
        if len(block) < BLOCK:
            raise self._cut()
        return block

    def _read(self, count: int) -> bytes:
        self._budget -= count
        if self._budget < 0:
            raise self._damaged("a header that is too large")
        data = self._stream.read(count)
        self._position += len(data)
        return data

    def _skip(self, count: int) -> None:
        if count:
            if self._stream.skip(count) < count:
                raise self._cut()
            self._position += count

    def _cut(self) -> ImageError:
        return ImageError(f"{self._what} is cut short", next_step="save or download it again")

    def _damaged(self, why: str) -> ImageError:
        return ImageError(f"{self._what} is damaged", why=why, next_step="save or download it again")


def checksum(block: bytes) -> int:
    """Return the sum of a block's bytes, the fastest way there is: it is one half of Adler-32 (RFC 1950)."""
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _plain(block: bytes) -> tarfile.TarInfo | None:
    """Parse the most usual kind of header, much faster than `TarInfo.frombuf`; return None for others.

    Its numbers are octal digits, and its name is in one field.
    """
    if block[345] or not _NUMBERS.match(block, 100) or block[156:157] not in _PLAIN:
        return None
    if checksum(block) - sum(block[148:156]) + 8 * 0x20 != int(block[148:154], 8):
        return None
    info = tarfile.TarInfo(_text(block[:100].partition(b"\0")[0]))
    info.type = block[156:157]
    if info.name.endswith("/"):
        if info.type != tarfile.DIRTYPE:
            return None
        info.name = info.name.rstrip("/")
    info.mode, info.uid, info.gid = int(block[100:107], 8), int(block[108:115], 8), int(block[116:123], 8)
    info.size, info.mtime = int(block[124:135], 8), int(block[136:147], 8)
    if block[157]:
        info.linkname = _text(block[157:257].partition(b"\0")[0])
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        return None
    return info


def padded(size: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
