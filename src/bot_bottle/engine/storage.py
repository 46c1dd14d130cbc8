"""Images in their engine's storage: read there by users who may, which saves the engine's own export.

docker with overlay2 and podman with overlay store each layer unpacked, with a description of its tar
(tar_split.py). docker with containerd's image store has them as pulled or built (content_store.py). The
storage is not a documented interface. But the config is verified against the image's id, and each layer
against the digest in the config, so a change or a missing file is noticed, and the image is exported as
usual.

Sources: moby, layer/filestore.go, image/fs.go; containers/storage, images.go, layers.go; OCI image-spec v1.1,
config.md ("Layer ChainID").
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bot_bottle.engine.commands import EngineName
from bot_bottle.engine.content_store import content_store_image
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import is_containerd_store, part
from bot_bottle.engine.tar_split import SplitTar
from bot_bottle.errors import BottleError, ImageError
from bot_bottle.image.archive import Image, image_of
from bot_bottle.image.layers import Blob, Layer, LayerReader, LayerStream
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.structs import replace

_LIMIT = 64 << 20  # bytes of one of the engine's documents
_NOWHERE = Blob(-1, 0, 0)


class _Place(NamedTuple):
    """Where a layer is: the tar-split file, and the folder with its files."""

    recipe: Path
    folder: Path


@contextmanager
def stored_image(engine: Engine, image_id: str) -> Iterator[Image | None]:
    """Open an image in the engine's storage; None where it cannot be read.

    Its layers are verified when they are read, as always. Its platform has to be this machine's. Raises
    ImageError for an image in containerd's content store that is damaged or for another platform.
    """
    try:
        info, wanted = engine.info(), Digest(image_id)
    except BottleError:
        yield None
        return
    if engine.name == "docker" and is_containerd_store(info):
        with content_store_image(info, wanted) as image:
            yield image
    else:
        yield _unpacked_image(engine.name, info, wanted)


def _unpacked_image(name: EngineName, info: dict[str, Any], wanted: Digest) -> Image | None:
    try:
        config, places = _podman(info, wanted) if name == "podman" else _docker(info, wanted)
        if Digest.of(config) != wanted or not all(_readable(place) for place in places):
            return None
        image = image_of(config, [_NOWHERE] * len(places), [None] * len(places), Platform.of_this_machine())
    except (BottleError, OSError, ValueError, TypeError, KeyError, StopIteration, RecursionError):
        return None
    layers = (
        replace(layer, opener=partial(_open, layer, place))
        for layer, place in zip(image.layers, places, strict=True)
    )
    return replace(image, layers=tuple(layers))


def _readable(place: _Place) -> bool:
    return os.access(place.recipe, os.R_OK) and os.access(place.folder, os.R_OK | os.X_OK)


def _open(layer: Layer, place: _Place, verify: bool) -> LayerReader:
    try:
        source = SplitTar(*place)
    except OSError as error:
        raise ImageError(f"{layer} cannot be read", why=str(error)) from error
    return LayerStream(layer, verify=verify, source=source)


def _docker(info: dict[str, Any], image_id: Digest) -> tuple[bytes, list[_Place]]:
    driver = info["Driver"]
    if driver != "overlay2":
        raise ValueError(driver)
    root = Path(info["DockerRootDir"])
    store = root / "image" / driver
    config = _read(store / "imagedb" / "content" / image_id.algorithm / image_id.hex)
    places = []
    for chain in _chain_ids(json.loads(config)["rootfs"]["diff_ids"]):
        layer = store / "layerdb" / chain.algorithm / chain.hex
        folder = root / driver / _name(_read(layer / "cache-id").decode()) / "diff"
        places.append(_Place(layer / "tar-split.json.gz", folder))
    return config, places


def _chain_ids(diff_ids: Sequence[str]) -> Iterator[Digest]:
    chain = ""
    for diff_id in map(Digest, diff_ids):
        chain = (
            f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}" if chain else str(diff_id)
        )
        yield Digest(chain)


def _podman(info: dict[str, Any], image_id: Digest) -> tuple[bytes, list[_Place]]:
    store = part(info, "store")
    driver = store["graphDriverName"]
    if driver != "overlay":
        raise ValueError(driver)
    root = Path(store["graphRoot"])
    images = root / f"{driver}-images"
    config = _read(images / image_id.hex / f"={base64.b64encode(str(image_id).encode()).decode()}")
    image = next(each for each in json.loads(_read(images / "images.json")) if each["id"] == image_id.hex)
    layers = root / f"{driver}-layers"
    parents = {each["id"]: each.get("parent") for each in json.loads(_read(layers / "layers.json"))}
    places: list[_Place] = []
    layer: Any = image.get("layer")
    while layer and len(places) < len(parents):
        places.insert(0, _Place(layers / f"{_name(layer)}.tar-split.gz", root / driver / layer / "diff"))
        layer = parents[layer]
    return config, places


def _name(text: str) -> str:
    if not text.isalnum():
        raise ValueError(text)
    return text


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LIMIT)
    if len(data) == _LIMIT:
        raise ValueError(f"{path} is too large")
    return data
