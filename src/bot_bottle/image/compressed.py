"""Archives that are compressed as a whole, as `docker load` accepts them, decompressed into a file.

The compression is recognized by its magic number, not by the file's name. The size of the output and the
memory are bounded.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format 1.1.0, bzip2's manual.
"""

from __future__ import annotations

import bz2
import lzma
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

from bot_bottle.errors import DiskFullError, ImageError
from bot_bottle.host.files import disk_full
from bot_bottle.image.gunzip import GZIP_MAGIC, GzipError, open_gzip

ARCHIVE_LIMIT = 64 << 30  # bytes, decompressed
MAGIC_SIZE = 6

_PIECE = 1 << 20  # bytes
_XZ_MEMORY = 256 << 20  # bytes; `xz -9` needs 65 MiB
_ROOM = 64 << 20  # bytes that an archive may have besides the image's own, for headers and documents
_MAGICS = {
    GZIP_MAGIC: "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},  # a skippable frame first
}


def compression(magic: bytes) -> str | None:
    """Return the compression of a file that begins with these bytes, or None."""
    return next((name for sign, name in _MAGICS.items() if magic.startswith(sign)), None)


def decompress(
    source: IO[bytes],
    kind: str | None,
    target: int,
    what: str,
    *,
    limit: int = ARCHIVE_LIMIT,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> None:
    """Write the content of `source`, decompressed, to the file descriptor `target`; None means unchanged.

    `limit` is the size in bytes that the image may have. `on_bytes` is called with the size of each piece.
    Raises ImageError for damaged or too large data, DiskFullError.
    """
    left = limit + _ROOM
    for piece in _explained(_READERS[kind](source), what):
        left -= len(piece)
        if left < 0:
            raise ImageError(
                f"{what} is larger than allowed",
                why=f"decompressed it has more than {limit} bytes",
                next_step="raise the limit with --max-image-size, if the size is right",
            )
        try:
            _write(target, piece)
        except OSError as error:
            if disk_full(error):
                raise DiskFullError(
                    f"{what} does not fit on the disk when it is decompressed",
                    why=error.strerror or "",
                    next_step="free some space, or set BOT_BOTTLE_CACHE_DIR to another folder",
                ) from error
            raise
        on_bytes(len(piece))


def _explained(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    try:
        yield from pieces
    except (OSError, EOFError, ValueError, GzipError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise ImageError(
            f"{what} cannot be decompressed", why=str(error), next_step="save or download it again"
        ) from error


def _write(target: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(target, view) :]


def _read(stream: Any) -> Iterator[bytes]:
    while piece := stream.read(_PIECE):
        yield piece


def _zstd(source: IO[bytes]) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True, closefd=False) as stream:
        yield from _read(stream)


def _xz(source: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of every stream; between them there may be zeros."""
    data = source.read(_PIECE)
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not stream.eof:
            if stream.needs_input and not data:
                data = source.read(_PIECE)
                if not data:
                    raise EOFError("it ends in the middle")
            yield stream.decompress(data, _PIECE)
            data = b""
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := source.read(_PIECE)):
            data = more.lstrip(b"\0")


_READERS: dict[str | None, Callable[[IO[bytes]], Iterator[bytes]]] = {
    None: _read,
    "gzip": lambda source: _read(open_gzip(source)),
    "bzip2": lambda source: _read(bz2.BZ2File(source)),
    "xz": _xz,
    "zstd": _zstd,
}
