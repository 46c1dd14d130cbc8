"""An image out of an archive: what `docker save` and `podman save` write, and OCI layouts, file or folder.

Sources: Docker image-spec v1.2 ("Combined Image JSON + Filesystem Changeset Format": manifest.json), OCI
image-spec v1.1 (image-layout.md, image-index.md, manifest.md).
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bot_bottle.errors import DiskFullError, ImageError
from bot_bottle.host.files import disk_full
from bot_bottle.image import layout
from bot_bottle.image.archive_index import FolderMembers, Members, TarMembers, document, shown, whole
from bot_bottle.image.index import Found
from bot_bottle.image.layers import Blob, Layer
from bot_bottle.image.platforms import suits
from bot_bottle.image.spec import Digest, ImageConfig, Platform
from bot_bottle.tar.stream import TarStream

_LAYER_LIMIT = 500  # what the kernel's overlayfs can stack, and more than any engine makes
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "zstd -d", b"\xfd7zXZ\x00": "unxz"}


@dataclass(frozen=True, slots=True)
class Image:
    """An image as its archive holds it. `layers` are bottom first; they can be read while it is open.

    `manifest_bytes` is an OCI layout's manifest of it, verified; docker-save archives have none. `digests`
    are all that identify it, each verified: its config's, its manifest's, and each index's on the way to it.
    An engine names it by one of them: by the config's, or in containerd's image store by one of the others.
    """

    config_bytes: bytes = field(repr=False)
    config: ImageConfig
    image_id: Digest
    layers: tuple[Layer, ...]
    manifest_bytes: bytes | None = field(default=None, repr=False)
    digests: frozenset[Digest] = frozenset()


@contextmanager
def open_archive(path: Path, *, platform: Platform | None = None) -> Iterator[Image]:
    """Open the one image in an archive file or OCI layout folder; its layers are readable inside the block.

    Of an image for several platforms the one for `platform` is taken (default: this machine's). Raises
    ImageError when it is not an archive, is damaged or cut short, holds several images, or none for the
    platform. Layers are verified when they are read, everything else here.
    """
    wanted = platform or Platform.of_this_machine()
    with ExitStack() as stack:
        members = _open_members(path, stack)
        if layout.is_layout(members):
            yield image_found(layout.read(members, wanted), wanted)
        else:
            config, blobs = _read_saved(members, path)
            yield image_of(config, blobs, [None] * len(blobs), wanted)


def spool(stream: TarStream, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Write an engine's save stream to a new file, in a folder that the caller owns.

    `on_bytes` is called with the size of each piece that was written. Raises DiskFullError when it does not
    fit; what was written is removed then.
    """
    try:
        with path.open("x+b", buffering=0) as file:
            stream.pour(file.fileno(), on_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        if disk_full(error):
            raise DiskFullError(
                f"the image does not fit in {path.parent}",
                why=error.strerror or "",
                next_step="free some space, or name another place with BOT_BOTTLE_CACHE_DIR",
            ) from error
        raise ImageError(f"cannot write {path}", why=error.strerror or str(error)) from error


def as_tar(archive: Path, target: Path) -> Path:
    """Give an archive as one file whose name ends in `.tar`: itself, or `target`, made from it.

    Programs that tell an archive from a registry reference by its name take no other.
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


def _open_members(path: Path, stack: ExitStack) -> Members:
    if path.is_dir():
        return FolderMembers(path, stack)
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path} is neither a file nor a folder")
        file = stack.enter_context(path.open("rb"))
        magic = os.pread(file.fileno(), 6, 0)
    except OSError as error:
        raise ImageError(f"cannot read {path}", why=error.strerror or str(error)) from error
    for sign, tool in _COMPRESSED.items():
        if magic.startswith(sign):
            raise ImageError(f"{path} is compressed", next_step=f"decompress it first, with `{tool}`")
    return TarMembers(file.fileno(), str(path))


def image_found(found: Found, wanted: Platform) -> Image:
    """Return an image that an index led to. Raises ImageError."""
    image = image_of(found.config, found.blobs, found.digests, wanted)
    return replace(image, manifest_bytes=found.manifest, digests=image.digests | found.names)


def image_of(config_bytes: bytes, blobs: list[Blob], digests: list[Digest | None], wanted: Platform) -> Image:
    """Make an image of its config, and its layers' blobs and their digests. Raises ImageError."""
    config = ImageConfig.parse(config_bytes)
    if config.platform.architecture and not suits(config.platform, wanted):
        variant = replace(config.platform, variant="") == replace(wanted, variant="")
        raise ImageError(
            f"the image is for {shown(str(config.platform))}, not for {wanted}",
            why="the processor of this machine does not run that variant" if variant else "",
            next_step=f"build or save it for {wanted}",
        )
    if len(config.diff_ids) != len(blobs):
        raise ImageError(
            "the image is malformed",
            why=f"its config lists {len(config.diff_ids)} layers, its manifest {len(blobs)}",
        )
    if len(blobs) > _LAYER_LIMIT:
        raise ImageError(f"the image has {len(blobs)} layers; {_LAYER_LIMIT} are the most there can be")
    layers = (Layer(*facts) for facts in zip(config.diff_ids, digests, blobs, strict=True))
    own = Digest.of(config_bytes)
    return Image(config_bytes, config, own, tuple(layers), digests=frozenset({own}))


def _read_saved(members: Members, path: Path) -> tuple[bytes, list[Blob]]:
    """Read the manifest.json of `docker save`: one object for each image, its layers bottom first."""
    raw = document(members, "manifest.json")
    if raw is None:
        raise ImageError(
            f"{path} is not an image archive",
            why="it has neither manifest.json (docker save) nor oci-layout and index.json (OCI)",
            next_step="write one with `docker save` or `podman save`",
        )
    entry = _one_image(raw)
    config_name, layer_names = entry.get("Config"), entry.get("Layers") or []
    if not isinstance(config_name, str) or not isinstance(layer_names, list):
        raise ImageError("manifest.json is malformed", why="Config must be a name, Layers a list")
    config_blob = _named(members, config_name)
    config = whole(config_blob, config_name)
    stem = config_name.rpartition("/")[2].removesuffix(".json")
    if len(stem) == 64 and stem != Digest.of(config).hex:
        raise ImageError("the image config is damaged", why=f"its digest is not {stem}")
    return config, [_named(members, name) for name in layer_names]


def _one_image(raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError("manifest.json is not JSON", why=str(error)) from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ImageError("manifest.json is malformed", why="it must be a list of images")
    if any(entry.get("Config") != entries[0].get("Config") for entry in entries):
        tags = [str(tag) for entry in entries for tag in entry.get("RepoTags") or ["(no name)"]]
        raise ImageError(
            f"the archive holds {len(entries)} images",
            why=", ".join(shown(tag) for tag in tags[:20]),
            next_step="save one image alone",
        )
    return dict(entries[0])


def _named(members: Members, name: object) -> Blob:
    if not isinstance(name, str):
        raise ImageError("manifest.json is malformed", why="names must be strings")
    blob = members.find(name)
    if blob is None:
        raise ImageError(f"the archive lacks {name[:200]!r}", next_step="save or download it again")
    return blob
