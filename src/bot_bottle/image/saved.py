"""The images of a docker-save archive: what `docker save`, `podman save` and many other tools write.

Source: Docker image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format" (manifest.json).
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from bot_bottle.errors import ImageError
from bot_bottle.image.archive_index import Members, document, shown, whole
from bot_bottle.image.layers import Blob
from bot_bottle.image.names import means
from bot_bottle.image.platforms import suits
from bot_bottle.image.spec import Digest, ImageConfig, Platform

_IMAGES_LIMIT = 1000
_SHOWN = 20  # images in one message


class _Saved(Struct):
    """One image: its config, the names of its layers, and its own names."""

    config: bytes
    layers: list[Any]
    names: list[str]

    @property
    def digest(self) -> Digest:
        return Digest.of(self.config)

    def suits(self, wanted: Platform) -> bool:
        platform = ImageConfig.parse(self.config).platform
        return not platform.architecture or suits(platform, wanted)


def read_saved(members: Members, what: str, wanted: Platform, name: str | None) -> tuple[bytes, list[Blob]]:
    """Return the config and the layers, bottom first, of the image `name`; None means the only one.

    Of several with the name it is the one for the platform. Raises ImageError.
    """
    raw = document(members, "manifest.json")
    if raw is None:
        raise _no_archive(members, what)
    found = _images(members, raw)
    if name is not None:
        found = [each for each in found if means(name, each.names, [each.digest])]
        if not found:
            raise no_such_name(name, [_summary(each) for each in _images(members, raw)])
    if len(found) > 1:
        found = [each for each in found if each.suits(wanted)] or found
    if len(found) > 1:
        raise several(f"the archive has {len(found)} images", [_summary(each) for each in found], what)
    return found[0].config, [_named(members, layer) for layer in found[0].layers]


def several(message: str, images: list[tuple[str, str]], what: str) -> ImageError:
    """Return the error that asks to choose one of several images, each with its digest and name, if any."""
    digest, name = images[0]
    return ImageError(
        message,
        why=_list(images),
        next_step=f"choose one by its name or digest: {what}:{shown(name) or digest[:19]}",
    )


def no_such_name(name: str, images: list[tuple[str, str]]) -> ImageError:
    """Return the error that lists which images there are."""
    return ImageError(
        f"the archive has no image named {shown(name)}",
        why=_list(images),
        next_step="choose one of these" if images else "save the image again",
    )


def _list(images: list[tuple[str, str]]) -> str:
    lines = [f"{digest} {shown(name)}".rstrip() for digest, name in images[:_SHOWN]]
    return "\n".join([*lines, *(["..."] if len(images) > _SHOWN else [])])


def _summary(image: _Saved) -> tuple[str, str]:
    return str(image.digest), image.names[0] if image.names else ""


def _images(members: Members, raw: bytes) -> list[_Saved]:
    """Return the images, each once with all its names."""
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError("manifest.json is not JSON", why=str(error)) from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ImageError("manifest.json is malformed", why="it must be a list of images")
    if len(entries) > _IMAGES_LIMIT:
        raise ImageError(f"the archive has more than {_IMAGES_LIMIT} images")
    images: dict[str, _Saved] = {}
    for entry in entries:
        name, layers, tags = entry.get("Config"), entry.get("Layers") or [], entry.get("RepoTags") or []
        if not isinstance(name, str) or not isinstance(layers, list) or not isinstance(tags, list):
            raise ImageError("manifest.json is malformed", why="Config must be a name, Layers a list")
        if name not in images:
            images[name] = _Saved(_config(members, name), layers, [])
        images[name].names += [tag for tag in tags if isinstance(tag, str)]
    return list(images.values())


def _config(members: Members, name: str) -> bytes:
    config = whole(_named(members, name), name)
    stem = name.rpartition("/")[2].removesuffix(".json")
    if len(stem) == 64 and stem != Digest.of(config).hex:
        raise ImageError("the image config is damaged", why=f"its digest is not {stem}")
    return config


def _named(members: Members, name: object) -> Blob:
    if not isinstance(name, str):
        raise ImageError("manifest.json is malformed", why="names must be strings")
    blob = members.find(name)
    if blob is None:
        raise ImageError(f"the archive lacks {name[:200]!r}", next_step="save or download it again")
    return blob


def _no_archive(members: Members, what: str) -> ImageError:
    """Return the error that explains what a tar without an image is."""
    if members.find("repositories") is not None:
        return ImageError(
            f"{what} is an image archive of docker 1.9 or older",
            why="it has no manifest.json",
            next_step="load it with docker and save it again",
        )
    if any(members.find(name) is not None for name in ("etc/passwd", "etc/os-release", "usr/lib/os-release")):
        return ImageError(
            f"{what} is a root filesystem, not an image archive",
            why="`docker export` and debootstrap make these; they have no manifest.json",
            next_step="make an image from it: `docker import FILE NAME`, then --image NAME",
        )
    return ImageError(
        f"{what} is not an image archive",
        why="it has neither manifest.json (docker save) nor oci-layout and index.json (OCI)",
        next_step="write one with `docker save` or `podman save`",
    )
