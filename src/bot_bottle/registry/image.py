"""An image as a registry serves it: a manifest, a config, and layers as they are stored in the archive.

A layer is never recompressed or copied. The manifest of an OCI layout is served byte for byte, so the image
keeps its digest; a `docker save` archive has none, so one is written.

Source: OCI image-spec v1.1, manifest.md, layer.md (media types).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.image.layers import CHUNK, Blob, Layer
from bot_bottle.image.spec import Digest, parse_json

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_COMPRESSED = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


@dataclass(frozen=True, slots=True)
class Content:
    """What is served of one image."""

    manifest: bytes = field(repr=False)
    media_type: str
    digest: Digest
    config: bytes = field(repr=False)
    config_digest: Digest
    layers: tuple[tuple[Digest, Blob], ...]


@contextmanager
def open_content(path: Path, name: str | None = None, *, verify: bool = True) -> Iterator[Content]:
    """Open the image in an archive or OCI layout; its layers are readable inside the block.

    `name` chooses among several images. Every layer is verified, except in an archive that an engine has just
    written: the engine has verified it, and the client does again. Raises ImageError for what `open_archive`
    refuses, and for a layer that does not have its digest.
    """
    with open_archive(path, name=name) as image:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            digests = list(pool.map(functools.partial(_digest, verify=verify), image.layers))
        layers = tuple((digest, layer.blob) for digest, layer in zip(digests, image.layers, strict=True))
        yield _content(image, layers)


def name_of(text: str) -> str:
    """Return a repository name for a reference or file name: `agent` for `example.org/me/Agent:1`."""
    last = text.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    stem = re.sub(r"\.(tar(\.\w+)?|oci|t[gbx]z2?|tzst)$", "", last.partition(":")[0])
    return re.sub(r"[^a-z0-9]+", "-", stem)[:100].strip("-") or "image"


def _content(image: Image, layers: tuple[tuple[Digest, Blob], ...]) -> Content:
    config_digest = image.image_id
    manifest = image.manifest_bytes
    if manifest is None:
        manifest = _manifest(image.config_bytes, config_digest, layers)
    document = parse_json(manifest, "image manifest")
    media_type = document.get("mediaType") or MANIFEST_TYPE
    if (described := document["config"]["digest"]) != str(config_digest):
        config_digest = Digest.of(image.config_bytes, Digest(described).algorithm)
    return Content(manifest, str(media_type), Digest.of(manifest), image.config_bytes, config_digest, layers)


def _manifest(config: bytes, config_digest: Digest, layers: tuple[tuple[Digest, Blob], ...]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": str(config_digest), "size": len(config)},
        "layers": [
            {"mediaType": _LAYER_TYPE + _compression(blob), "digest": str(digest), "size": blob.size}
            for digest, blob in layers
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _compression(blob: Blob) -> str:
    magic = blob.pread(4, 0)
    return next((suffix for sign, suffix in _COMPRESSED.items() if magic.startswith(sign)), "")


def _digest(layer: Layer, *, verify: bool) -> Digest:
    """Return the digest of a layer's stored blob. Raises ImageError when the image states another."""
    wanted = layer.digest or (layer.diff_id if not _compression(layer.blob) else None)
    if wanted is not None and not verify:
        return wanted
    algorithm = wanted.algorithm if wanted else "sha256"
    digest = Digest(f"{algorithm}:{_hashed(layer.blob, algorithm)}")
    if wanted is not None and digest != wanted:
        raise ImageError(
            f"{layer} is damaged",
            why=f"its digest is {digest}, not {wanted}",
            next_step="save or download the image again",
        )
    return digest


def _hashed(blob: Blob, algorithm: str) -> str:
    whole = hashlib.new(algorithm)
    position = 0
    while position < blob.size:
        data = blob.pread(CHUNK, position)
        if not data:
            raise ImageError("the archive has become shorter while it was read")
        whole.update(data)
        position += len(data)
    return whole.hexdigest()
