"""An image in an archive: what `docker save` and `podman save` write, and OCI layouts, file or folder.

saved.py reads the former, layout.py the latter.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bot_bottle.errors import DiskFullError, ImageError
from bot_bottle.host import paths
from bot_bottle.host.files import disk_full
from bot_bottle.image import layout
from bot_bottle.image.archive_index import FolderMembers, Members, TarMembers, shown
from bot_bottle.image.compressed import ARCHIVE_LIMIT, MAGIC_SIZE, compression, decompress
from bot_bottle.image.index import Found
from bot_bottle.image.layers import Blob, Layer
from bot_bottle.image.platforms import suits
from bot_bottle.image.saved import read_saved
from bot_bottle.image.spec import Digest, ImageConfig, Platform
from bot_bottle.structs import replace
from bot_bottle.tar.stream import TarStream

_LAYER_LIMIT = 500  # the limit of the kernel's overlayfs, and more than any engine makes


@dataclass(frozen=True, slots=True)
class Image:
    """An image in an archive. `layers` are bottom first; they can be read while the archive is open.

    `manifest_bytes` is its manifest in an OCI layout, verified; docker-save archives have none. `digests` are
    all that identify it, each verified: of its config, its manifest, and each index that leads to it. The
    image id of an engine is one of them: the config's, or in containerd's image store one of the others.
    """

    config_bytes: bytes = field(repr=False)
    config: ImageConfig
    image_id: Digest
    layers: tuple[Layer, ...]
    manifest_bytes: bytes | None = field(default=None, repr=False)
    digests: frozenset[Digest] = frozenset()


@contextmanager
def open_archive(
    path: Path, *, name: str | None = None, platform: Platform | None = None, limit: int = ARCHIVE_LIMIT
) -> Iterator[Image]:
    """Open an image in an archive file or OCI layout folder; its layers are readable inside the block.

    A file may be compressed as a whole; decompressed it may contain an image of `limit` bytes. `name` chooses
    among several images (see names.py), `platform` (default: this machine's) among the platforms of one.
    Raises ImageError when it is not an archive, is damaged or truncated, contains several images and no name
    is given, or none for the name or platform. Layers are verified when they are read, everything else here.
    """
    wanted = platform or Platform.of_this_machine()
    with ExitStack() as stack:
        members = _open_members(path, stack, limit)
        if layout.is_layout(members):
            yield image_found(layout.read(members, str(path), wanted, name), wanted)
        else:
            config, blobs = read_saved(members, str(path), wanted, name)
            yield image_of(config, blobs, [None] * len(blobs), wanted)


def spool(stream: TarStream, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Write an engine's save stream to a file, in a folder that the caller owns.

    `on_bytes` is called with the size of each piece that was written. Raises DiskFullError when the disk is
    full; then the file is removed.
    """
    try:
        with path.open("w+b", buffering=0) as file:
            stream.pour(file.fileno(), on_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        if disk_full(error):
            raise DiskFullError(
                f"the image does not fit in {path.parent}",
                why=error.strerror or "",
                next_step="free some space, or set BOT_BOTTLE_CACHE_DIR to another folder",
            ) from error
        raise ImageError(f"cannot write {path}", why=error.strerror or str(error)) from error


def as_tar(archive: Path, target: Path) -> Path:
    """Return an archive as one file whose name ends in `.tar`: itself, or `target`, made from it.

    Some programs distinguish an archive from a registry reference by its name, and accept no other.
    """
    if archive.is_dir():
        with tarfile.open(target, "x") as tar:
            for path in sorted(archive.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    tar.add(path, path.relative_to(archive).as_posix(), recursive=False)
        return target
    if archive.suffix == ".tar":
        return archive
    try:
        target.hardlink_to(archive.resolve())
    except OSError:
        shutil.copyfile(archive, target)
    return target


def _open_members(path: Path, stack: ExitStack, limit: int) -> Members:
    if path.is_dir():
        return FolderMembers(path, stack)
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path} is neither a file nor a folder")
        file = stack.enter_context(path.open("rb"))
        kind = compression(os.pread(file.fileno(), MAGIC_SIZE, 0))
    except OSError as error:
        raise ImageError(f"cannot read {path}", why=error.strerror or str(error)) from error
    if kind is not None:
        place = paths.runs_dir()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        plain = stack.enter_context(tempfile.TemporaryFile(dir=place, buffering=0))  # noqa: SIM115
        decompress(file, kind, plain.fileno(), str(path), limit=limit)
        return TarMembers(plain.fileno(), str(path))
    return TarMembers(file.fileno(), str(path))


def image_found(found: Found, wanted: Platform) -> Image:
    """Return the image that an index led to. Raises ImageError."""
    image = image_of(found.config, found.blobs, found.digests, wanted)
    return replace(image, manifest_bytes=found.manifest, digests=image.digests | found.names)


def image_of(config_bytes: bytes, blobs: list[Blob], digests: list[Digest | None], wanted: Platform) -> Image:
    """Return an image, made of its config, and its layers' blobs and digests. Raises ImageError."""
    config = ImageConfig.parse(config_bytes)
    if config.platform.architecture and not suits(config.platform, wanted):
        variant = replace(config.platform, variant="") == replace(wanted, variant="")
        raise ImageError(
            f"the image is for {shown(str(config.platform))}, not for {wanted}",
            why="the processor of this machine does not run that variant" if variant else "",
            next_step=f"build or pull it for {wanted}: docker and podman take --platform {wanted} for both",
        )
    if len(config.diff_ids) != len(blobs):
        raise ImageError(
            "the image is malformed",
            why=f"its config lists {len(config.diff_ids)} layers, its manifest {len(blobs)}",
        )
    if len(blobs) > _LAYER_LIMIT:
        raise ImageError(f"the image has {len(blobs)} layers; the limit is {_LAYER_LIMIT}")
    layers = (Layer(*facts) for facts in zip(config.diff_ids, digests, blobs, strict=True))
    own = Digest.of(config_bytes)
    return Image(config_bytes, config, own, tuple(layers), digests=frozenset({own}))
