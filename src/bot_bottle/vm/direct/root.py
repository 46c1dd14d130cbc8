"""An artifact's root filesystem as an EROFS image, which a directly booted machine mounts.

The rules are those of smolvm's own extraction: devices, FIFOs and extended attributes are left out, symlinks
belong to root, times are whole seconds.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.errors import ArtifactError, ImageError
from bot_bottle.host.files import start_writeback
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import Headers

_LEFT_OUT = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_GOING = 32 << 20  # bytes after which a write-back is started, so that the final fsync is short
_AGAIN = "make the artifact again"


def write_root_image(artifact: Path, target: Path, progress: Progress) -> None:
    """Write the image to a new file, or over one, and check the whole artifact meanwhile.

    The file is not synced. What there is of it after an error is for the caller to remove. Raises
    ArtifactError, OSError.
    """
    read = artifact_format.read(artifact)
    count = len(read.manifest.assets.layers)
    if count != 1:
        raise ArtifactError(
            f"the artifact has {count} layers: {artifact}",
            why="without KVM, only an artifact with a single layer can be booted directly",
            next_step="make it again with `bottle pack`, or use --accel nested",
        )
    with progress.stage("root", read.size) as stage, target.open("wb") as file:
        writer = ImageWriter(file)

        def write_layer(name: str, pieces: Iterator[bytes]) -> None:
            headers = Headers(PieceStream(pieces), f"{name} in {artifact}", strict_end=True)
            _write_members(writer, headers, file.fileno())

        artifact_format.verify(artifact, stage.advance, write_layer)
        stage.conclude(human_count(writer.finish(), "file"))


def _write_members(writer: ImageWriter, headers: Headers, fd: int) -> None:
    begun = 0  # bytes whose write-back has been started
    try:
        for member in headers:
            if member.type in _LEFT_OUT:
                continue
            member.pax_headers = {}
            if member.type == tarfile.SYMTYPE:
                member.uid = member.gid = 0
            writer.member(member, headers.data())
            if writer.size - begun >= _GOING:
                start_writeback(fd, begun, writer.size - begun)
                begun = writer.size
    except ImageError as error:
        raise ArtifactError(error.message, why=error.why, next_step=_AGAIN) from error
