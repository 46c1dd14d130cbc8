"""OCI layouts: from index.json to the one manifest that is wanted.

Source: OCI image-spec v1.1, image-layout.md, image-index.md, manifest.md, descriptor.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bot_bottle.errors import ImageError
from bot_bottle.image.archive_index import Members, document, shown, whole
from bot_bottle.image.layers import Blob
from bot_bottle.image.spec import Digest, ImageConfig, Platform, parse_json

_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_DEPTH_LIMIT = 4  # indexes within indexes
_MANIFEST_LIMIT = 1000


class Found(NamedTuple):
    """An image in a layout: its config, its layers' blobs and digests (bottom first), and its manifest.

    `names` are the digests that lead to it: the manifest's own, and that of each index on the way.
    """

    config: bytes
    blobs: list[Blob]
    digests: list[Digest | None]
    manifest: bytes
    names: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class _Candidate:
    names: frozenset[Digest]
    digest: Digest
    platform: Platform
    manifest: dict[str, Any]
    raw: bytes


def is_layout(members: Members) -> bool:
    """Whether an archive is an OCI layout. Newer docker-save archives are both; this form says more."""
    return members.find("oci-layout") is not None and members.find("index.json") is not None


def suits(offered: Platform, wanted: Platform) -> bool:
    """Whether an image for one platform is what is wanted; a variant counts only when both name one."""
    return (offered.os, offered.architecture) == (wanted.os, wanted.architecture) and (
        offered.variant == wanted.variant or not offered.variant or not wanted.variant
    )


def read(members: Members, wanted: Platform) -> Found:
    """Return the image for a platform.

    Raises ImageError when there is none (listing those there are), or more than one.
    """
    marker = parse_json(document(members, "oci-layout") or b"", "oci-layout file")
    if marker.get("imageLayoutVersion") != "1.0.0":
        raise ImageError(
            "the OCI layout has a version that is not known", why=repr(marker.get("imageLayoutVersion"))
        )
    return choose(members, parse_json(document(members, "index.json") or b"", "index.json"), wanted)


def choose(members: Members, index: dict[str, Any], wanted: Platform) -> Found:
    """Return the image for a platform that an index leads to, among blobs named as in a layout.

    Raises ImageError when there is none (listing those there are), or more than one.
    """
    chosen: _Candidate | None = None
    others: set[str] = set()
    for candidate in _candidates(members, index, _DEPTH_LIMIT, set()):
        if not suits(candidate.platform, wanted):
            others.add(shown(str(candidate.platform)))
        elif chosen is None:
            chosen = candidate
        else:
            raise ImageError(
                f"the archive holds several images for {wanted}",
                why=f"{chosen.digest}\n{candidate.digest}",
                next_step="save one image alone",
            )
    if chosen is None:
        raise ImageError(
            f"the archive holds no image for {wanted}",
            why=f"it has: {', '.join(sorted(others)[:50])}" if others else "it has no image at all",
            next_step="name one of them with --platform" if others else "save the image again",
        )
    return _contents(members, chosen)


def _candidates(
    members: Members,
    index: dict[str, Any],
    depth: int,
    seen: set[Digest],
    way: frozenset[Digest] = frozenset(),
) -> Iterator[_Candidate]:
    """Yield the images of an index and of those within it, each once. `way` are the indexes that led here."""
    for descriptor in _objects(index, "manifests"):
        platform = _platform(descriptor)
        digest = Digest(descriptor.get("digest") or "")
        if digest in seen or (platform is not None and platform.os == "unknown"):
            continue  # of an unknown system are the attestations that stand beside images
        seen.add(digest)
        if len(seen) > _MANIFEST_LIMIT:
            raise ImageError(f"the archive holds more than {_MANIFEST_LIMIT} manifests")
        blob = _blob(members, digest)
        if blob is None:
            continue  # an index may list platforms that were not pulled
        raw = _verified(blob, digest, descriptor)
        content = parse_json(raw, f"manifest {digest}")
        if "manifests" in content:
            if not depth:
                raise ImageError("the OCI layout nests its indexes too deeply")
            yield from _candidates(members, content, depth - 1, seen, way | {digest})
        elif _is_image(content):
            platform = platform or ImageConfig.parse(_config(members, content)).platform
            yield _Candidate(way | {digest}, digest, platform, content, raw)


def _is_image(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is an image's, and not that of a signature, a chart or another artifact."""
    config = manifest.get("config")
    kind = config.get("mediaType") if isinstance(config, dict) else None
    return "layers" in manifest and (kind is None or kind in _CONFIG_TYPES)


def _contents(members: Members, found: _Candidate) -> Found:
    blobs, digests = [], []
    for descriptor in _objects(found.manifest, "layers"):
        digest = Digest(descriptor.get("digest") or "")
        blob = _blob(members, digest)
        if blob is None:
            raise ImageError(f"the archive lacks layer {digest}", next_step="save or download it again")
        _check_size(blob, digest, descriptor)
        blobs.append(blob)
        digests.append(digest)
    return Found(_config(members, found.manifest), blobs, list(digests), found.raw, found.names)


def _config(members: Members, manifest: dict[str, Any]) -> bytes:
    descriptor = manifest.get("config")
    if not isinstance(descriptor, dict):
        raise ImageError("the image manifest is malformed", why="config must be an object")
    digest = Digest(descriptor.get("digest") or "")
    blob = _blob(members, digest)
    if blob is None:
        raise ImageError(f"the archive lacks the image config {digest}")
    return _verified(blob, digest, descriptor)


def _blob(members: Members, digest: Digest) -> Blob | None:
    return members.find(f"blobs/{digest.algorithm}/{digest.hex}")


def _verified(blob: Blob, digest: Digest, descriptor: dict[str, Any]) -> bytes:
    _check_size(blob, digest, descriptor)
    data = whole(blob, str(digest))
    if Digest.of(data, digest.algorithm) != digest:
        raise ImageError(f"blob {digest} is damaged", why="its content has another digest")
    return data


def _check_size(blob: Blob, digest: Digest, descriptor: dict[str, Any]) -> None:
    size = descriptor.get("size")
    if size is not None and size != blob.size:
        raise ImageError(f"blob {digest} is damaged", why=f"it has {blob.size} bytes instead of {size!r}")


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = document.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ImageError("the OCI layout is malformed", why=f"{key} must be a list of objects")
    return items


def _platform(descriptor: dict[str, Any]) -> Platform | None:
    platform = descriptor.get("platform")
    if platform is None:
        return None
    if not isinstance(platform, dict):
        raise ImageError("the OCI layout is malformed", why="platform must be an object")
    facts = [platform.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(fact, str) for fact in facts):
        raise ImageError("the OCI layout is malformed", why="a platform's parts must be strings")
    return Platform(*facts)
