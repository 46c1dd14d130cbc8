"""A file that is sent in pieces, through Ray's object store: no more than one of them is in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from bot_bottle.errors import ClusterError
from bot_bottle.host.progress import human_bytes

SIZE = 4 << 20  # bytes


class Readable(Protocol):
    """A file or a stream."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, `count` at most; none at the end."""


class Piece(Struct, frozen=True):
    """A part of a file. The last one may be empty, and has the SHA-256 of the whole file."""

    data: bytes
    digest: str = ""


def read_pieces(file: Readable) -> Iterator[Piece]:
    """Yield a file's pieces."""
    hashed = hashlib.sha256()
    while data := file.read(SIZE):
        hashed.update(data)
        yield Piece(data)
    yield Piece(b"", hashed.hexdigest())


def receive(fetch: Callable[[int], Piece], out: Path, *, digest: str = "", most: int = 1 << 62) -> None:
    """Write the pieces that `fetch` returns for an offset to the new file `out`, and sync it.

    Raises ClusterError where what came is not what was sent, has another SHA-256 than `digest`, or is more
    than `most` bytes.
    """
    hashed, offset = hashlib.sha256(), 0
    with out.open("xb") as file:
        while True:
            piece = fetch(offset)
            if offset + len(piece.data) > most:
                out.unlink()
                raise ClusterError(f"{out.name} is larger than {human_bytes(most)}")
            hashed.update(piece.data)
            file.write(piece.data)
            offset += len(piece.data)
            if piece.digest:
                break
        file.flush()
        os.fsync(file.fileno())
    if hashed.hexdigest() != piece.digest or (digest and digest != piece.digest):
        out.unlink()
        raise ClusterError(f"{out.name} is not what was sent", next_step="try again")


class Spool:
    """Files on the disk of the head, each written piece by piece, and read while that is under way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, str] = {}

    def add(self, name: str, offset: int, piece: Piece) -> None:
        """Write a piece at an offset; at 0 the file begins anew."""
        if not offset:
            self._digests.pop(name, None)
        with (self._folder / name).open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece.data)
        if piece.digest:
            self._digests[name] = piece.digest

    def read(self, name: str, offset: int) -> Piece | None:
        """Return the piece at an offset, None while it has not come yet."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                data = file.read(SIZE)
        except FileNotFoundError:
            return None
        digest = self._digests.get(name, "")
        if digest and len(data) < SIZE:
            return Piece(data, digest)
        return Piece(data) if data else None

    def has(self, name: str) -> bool:
        """Return whether a part of a file has come."""
        return (self._folder / name).exists()
