"""The archive that an image comes from: decompressed once for a command, and opened.

Like docker, it accepts archives that are compressed as a whole, and standard input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from bot_bottle.engine.source import STANDARD_INPUT, Source
from bot_bottle.errors import ImageError, SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.image.compressed import MAGIC_SIZE, compression, decompress
from bot_bottle.smolmachine.format import FOOTER_SIZE, MAGIC


@contextmanager
def opened_archive(source: Source) -> Iterator[Image]:
    """Open the image in a source's archive for the block. Raises ImageError."""
    assert source.archive is not None  # noqa: S101 - checked by the caller
    with open_archive(source.archive, name=source.archive_name) as image:
        yield image


def plain_archive(path: Path, target: Path, limit: int, progress: Progress) -> Path:
    """Return an archive that is not compressed: `path`, or `target` made from it or from standard input.

    It may contain an image of `limit` bytes. Raises SpecError for anything else, ImageError, DiskFullError.
    """
    if path == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise SpecError("standard input is a terminal", next_step="docker save IMAGE | bottle ... -")
        with open(sys.stdin.fileno(), "rb", closefd=False) as file:
            return _decompressed(file, "standard input", target, limit, progress)
    if not path.exists():
        raise SpecError(f"no such archive: {path}")
    if not path.is_file():
        return path
    try:
        with path.open("rb") as file:
            _refuse_artifact(file, path)
            if compression(file.peek(MAGIC_SIZE)) is None:
                return path
            return _decompressed(file, str(path), target, limit, progress)
    except OSError as error:
        raise ImageError(f"cannot read {path}", why=error.strerror or str(error)) from error


def _decompressed(source: BufferedReader, what: str, target: Path, limit: int, progress: Progress) -> Path:
    kind = compression(source.peek(MAGIC_SIZE))
    with progress.stage("archive") as stage, target.open("xb", buffering=0) as file:
        decompress(source, kind, file.fileno(), what, limit=limit, on_bytes=stage.advance)
        stage.conclude(f"from {what}{f', {kind}' if kind else ''}")
    return target


def _refuse_artifact(file: BufferedReader, path: Path) -> None:
    """Raise SpecError for a `.smolmachine`, which begins as any zstd file does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - FOOTER_SIZE))
    ending = file.read(len(MAGIC))
    file.seek(0)
    if ending == MAGIC:
        raise SpecError(
            f"{path} is an artifact already, not an image archive",
            next_step=f"make a machine from it: `smolvm machine create --from {path} NAME`",
        )
