"""An artifact's root filesystem as an EROFS image, which a directly booted machine mounts.

The rules are those of smolvm's own extraction: devices, FIFOs and extended attributes are left out, symlinks
belong to root, times are whole seconds.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.errors import ArtifactError, ImageError
from bot_bottle.host.files import start_writeback
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.image.layers import Blob, Layer, Layers
from bot_bottle.image.spec import Digest
from bot_bottle.rootfs.flatten import flatten
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.manifest import LayerAsset
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import Headers

_LEFT_OUT = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_GOING = 32 << 20  # bytes after which a write-back is started, so that the final fsync is short
_AGAIN = "make the artifact again"


def write_root_image(artifact: Path, target: Path, progress: Progress) -> None:
    """Write the image to a new file, or over one, and check the whole artifact meanwhile.

    Several layers are merged as smolvm's overlay shows them; they are copied for that into the folder of
    `target`, without a name. The file is not synced. What there is of it after an error is for the caller to
    remove. Raises ArtifactError, OSError.
    """
    read = artifact_format.read(artifact)
    layers = read.manifest.assets.layers
    if not layers:
        raise ArtifactError(f"the artifact has no layers: {artifact}", next_step=_AGAIN)
    with progress.stage("root", read.size) as stage, target.open("wb") as file:
        writer = ImageWriter(file)
        if len(layers) == 1:

            def write_layer(name: str, pieces: Iterator[bytes]) -> None:
                _write_tar(writer, pieces, f"{name} in {artifact}", file.fileno())

            artifact_format.verify(artifact, stage.advance, write_layer)
        else:
            with tempfile.TemporaryFile(dir=target.parent) as spool:
                merged = _merged(artifact, layers, spool, stage.advance)
                _write_tar(writer, merged, str(artifact), file.fileno())
        stage.conclude(human_count(writer.finish(), "file"))


def _merged(
    artifact: Path, assets: Sequence[LayerAsset], spool: BinaryIO, on_bytes: Callable[[int], None]
) -> Iterator[bytes]:
    """Check the artifact, copy its layers to a file, and yield the tar of what is in all of them."""
    copied: dict[str, Layer] = {}

    def copy_layer(name: str, pieces: Iterator[bytes]) -> None:
        start, digest = spool.tell(), hashlib.sha256()
        for piece in pieces:
            spool.write(piece)
            digest.update(piece)
        size = spool.tell() - start
        copied[name] = Layer(
            Digest(f"sha256:{digest.hexdigest()}"), None, Blob(spool.fileno(), start, size), sound=True
        )

    artifact_format.verify(artifact, on_bytes, copy_layer)
    spool.flush()
    try:
        yield from flatten(Layers(tuple(copied[asset.path] for asset in assets)), verify=False).chunks()
    except ImageError as error:
        raise ArtifactError(f"{artifact}: {error.message}", why=error.why, next_step=_AGAIN) from error


def _write_tar(writer: ImageWriter, pieces: Iterator[bytes], what: str, fd: int) -> None:
    _write_members(writer, Headers(PieceStream(pieces), what, strict_end=True), fd)


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
