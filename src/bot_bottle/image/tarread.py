"""Tar headers of an untrusted forward stream, read by the standard library under guard.

`tarfile` reads every dialect (ustar, GNU, PAX, sparse), but it takes a cut archive for a whole one, reads a
header of any size into memory and believes a negative size. Here each member may take a bounded number of
header bytes, positions only go forward, and anything but a proper header or a proper end is an ImageError.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual,
"Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any, Protocol

from bot_bottle.errors import ImageError

BLOCK = 512
HEADER_LIMIT = 1 << 20  # bytes of headers one member may have: long names, PAX records, sparse maps

_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE})
_KNOWN = _REGULAR | {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}


class ForwardStream(Protocol):
    """What a tar is read from: bytes in order, some of them skipped."""

    def read(self, count: int, /) -> bytes:
        """Give `count` bytes, fewer only at the end."""

    def skip(self, count: int, /) -> int:
        """Pass over `count` bytes; give how many there were."""


class _NoGlobals(dict[str, str]):
    """Global PAX records, which container engines ignore. Nothing is kept, so nothing can pile up."""

    def __setitem__(self, key: str, value: str) -> None:
        pass


class Headers:
    """The members of one tar stream, one after another, as TarInfo objects that nothing here keeps.

    `what` names the stream in errors. With `strict_end` the stream must have its end mark of two zero blocks;
    without, it may also end where a header would begin, as some builders write layers.
    """

    def __init__(self, stream: ForwardStream, what: str, *, strict_end: bool = False) -> None:
        self._stream = stream
        self._what = what
        self._strict_end = strict_end
        self._position = 0
        self._budget = HEADER_LIMIT
        # an object to hold tarfile's state: it gets an empty archive to open, then our stream
        self._tar = tarfile.TarFile(
            fileobj=io.BytesIO(bytes(2 * BLOCK)), encoding="utf-8", errors="surrogateescape"
        )
        self._tar.pax_headers = _NoGlobals()
        self._tar.fileobj = self  # type: ignore[assignment]

    def read(self, count: int) -> bytes:
        """Give header bytes to tarfile, as many as a member may have."""
        self._budget -= count
        if count < 0 or self._budget < 0:
            raise ImageError(f"{self._what} has a tar header that is too large")
        data = self._stream.read(count)
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Give the position in the stream, for tarfile and for readers of data."""
        return self._position

    def data(self, count: int) -> bytes:
        """Read `count` bytes of the present member's data into memory."""
        data = self._stream.read(count)
        self._position += len(data)
        if len(data) < count:
            raise self._cut()
        return data

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            following = self._tar.offset
            yield member
            self._skip_to(following)

    def _next(self) -> tarfile.TarInfo | None:
        self._budget = HEADER_LIMIT
        try:
            member = tarfile.TarInfo.fromtarfile(self._tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            if self._strict_end and self._stream.read(BLOCK) != bytes(BLOCK):
                raise self._cut() from None
            return None
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            if self._strict_end:
                raise self._cut() from None
            return None
        except tarfile.TruncatedHeaderError as error:  # type: ignore[attr-defined]
            raise self._cut() from error
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, IndexError) as error:
            raise ImageError(
                f"{self._what} is damaged", why=f"bad tar header near byte {self._position}: {error}"
            ) from error
        self._check(member)
        return member

    def _check(self, member: tarfile.TarInfo) -> None:
        following: int = self._tar.offset
        if member.type not in _KNOWN:
            raise ImageError(
                f"{self._what} has a member of a kind that is not known",
                why=f"type {member.type!r}: {member.name[:200]!r}",
            )
        if member.type in _REGULAR:
            held = following - member.offset_data
            asked = _extents_end(member) if member.sparse is not None else member.size
            if member.size < 0 or member.offset_data != self._position or not 0 <= asked <= held:
                raise ImageError(
                    f"{self._what} has a file with an impossible size", why=f"{member.name[:200]!r}"
                )

    def _skip_to(self, position: int) -> None:
        if (count := position - self._position) < 0:
            raise ImageError(f"{self._what} is damaged", why="tar members overlap")
        if count:
            if self._stream.skip(count) < count:
                raise self._cut()
            self._position = position

    def _cut(self) -> ImageError:
        return ImageError(f"{self._what} is cut short", next_step="save or download it again")


def is_regular(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file with data, sparse or not."""
    return member.type in _REGULAR


def extents(member: tarfile.TarInfo) -> tuple[tuple[int, int], ...] | None:
    """Give where a sparse file's data belongs, as (offset, length) in order; None for a plain file."""
    if member.sparse is None:
        return None
    return tuple((offset, length) for offset, length in _sparse(member) if length)


def _sparse(member: tarfile.TarInfo) -> Any:
    return member.sparse


def _extents_end(member: tarfile.TarInfo) -> int:
    """Give how many bytes a sparse file holds, or -1 when its map makes no sense."""
    end = held = 0
    for offset, length in _sparse(member):
        if length < 0 or offset < end:
            return -1
        end = offset + length
        held += length
    return held if end <= member.size else -1
