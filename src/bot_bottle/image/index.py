"""From an index to the manifest in it that a machine runs, in any store of blobs.

An index may list other things than images (attestations, signatures, other artifacts), and images that the
store does not have; both are skipped. Engines write such an index for an image of which they have some
platforms only.

Source: OCI image-spec v1.1, image-index.md, manifest.md, descriptor.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bot_bottle.errors import ImageError
from bot_bottle.image.archive_index import shown, whole
from bot_bottle.image.layers import Blob
from bot_bottle.image.platforms import preference
from bot_bottle.image.spec import Digest, ImageConfig, Platform, parse_json

_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYER_TYPES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_DEPTH_LIMIT = 4  # indexes within indexes
_MANIFEST_LIMIT = 1000
_SHOWN = 20  # platforms, or kinds of artifacts, in one message

Find = Callable[[Digest], Blob | None]
"""Returns the blob of a digest, or None where the store does not have it. It need not be verified."""

Descriptor = dict[str, Any]

_Level = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One image: its config, its layers (bottom first) and their digests, and its manifest, verified.

    `names` are the digests of the manifest, of the config as the manifest states it, and of every index that
    leads to them.
    """

    config: bytes = field(repr=False)
    blobs: list[Blob]
    digests: list[Digest | None]
    manifest: bytes = field(repr=False)
    names: frozenset[Digest]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image's manifest for one platform."""

    digest: Digest
    platform: Platform
    manifest: Descriptor = field(repr=False)
    raw: bytes = field(repr=False)


class Search:
    """Search for images for the platform `wanted` in a store; `what` names the store in errors.

    It remembers what it found and could not use, to explain that nothing was found.
    """

    def __init__(self, find: Find, wanted: Platform, what: str) -> None:
        self._find = find
        self._wanted = wanted
        self._what = what
        self._others: set[str] = set()
        self._absent: set[str] = set()
        self._artifacts: set[str] = set()
        self._incomplete: set[str] = set()
        self._parents: dict[Digest, set[Digest]] = {}
        self._left = _MANIFEST_LIMIT

    def best(self, descriptors: Iterable[Descriptor]) -> list[Candidate]:
        """Return the images that run best here among those that descriptors lead to: one at most for each.

        Of several in one index that are equally good it is the first, as the specification says. Raises
        ImageError for malformed or damaged documents.
        """
        best: list[Candidate] = []
        most: _Level | None = None
        seen: set[Digest] = set()
        for descriptor in descriptors:
            first: Candidate | None = None
            for candidate in self._candidates([descriptor], (), seen):
                level = preference(candidate.platform, self._wanted)
                if level is None:
                    self._others.add(shown(str(candidate.platform)))
                elif most is None or level > most:
                    best, most, first = [], level, candidate
                elif level == most:
                    first = first or candidate
            best += [first] if first else []
        return best

    def open(self, found: Candidate) -> Found:
        """Return the image of a manifest. Raises ImageError when parts of it are missing or damaged."""
        blobs: list[Blob] = []
        digests: list[Digest | None] = []
        for descriptor in objects(found.manifest, "layers"):
            digest = Digest(descriptor.get("digest") or "")
            if str(descriptor.get("mediaType")).endswith("+encrypted"):
                raise ImageError(f"layer {digest} is encrypted", next_step="decrypt the image first")
            blob = self._find(digest)
            if blob is None:
                raise ImageError(
                    f"{self._what} lacks layer {digest}", next_step="save or download the image again"
                )
            _check_size(blob, digest, descriptor)
            blobs.append(blob)
            digests.append(digest)
        descriptor = found.manifest["config"]
        config = self._config(found.manifest)
        if config is None:
            raise ImageError(f"{self._what} lacks the image config {descriptor.get('digest')!r}")
        return Found(config, blobs, digests, found.raw, self.digests(found))

    def digests(self, found: Candidate) -> frozenset[Digest]:
        """Return the digests that identify an image: of its manifest, config, and each index above."""
        config = Digest(found.manifest["config"].get("digest") or "")
        return self._ancestors(found.digest) | {found.digest, config}

    def nothing(self) -> ImageError:
        """Return the error that explains why no image was found."""
        if self._absent:
            return ImageError(
                f"{self._what} does not have the image for {self._wanted}",
                why=f"it is listed, but the archive was written with other platforms only\n"
                f"missing: {_listed(self._absent)}",
                next_step=f"pull the image with --platform {self._wanted} and save it again",
            )
        if self._others:
            return ImageError(
                f"{self._what} has no image for {self._wanted}",
                why=f"it has: {_listed(self._others)}",
                next_step=f"build or pull the image for {self._wanted}: docker and podman take "
                f"--platform {self._wanted} for both",
            )
        if self._incomplete:
            return ImageError(
                f"{self._what} lacks the image config",
                why=f"of manifest {_listed(self._incomplete)}",
                next_step="save or pull the image again",
            )
        if self._artifacts:
            return ImageError(
                f"{self._what} has no container image",
                why=f"it has: {_listed(self._artifacts)}",
                next_step="choose an image; signatures, charts and other artifacts cannot run",
            )
        return ImageError(f"{self._what} has no image at all", next_step="save the image again")

    def _candidates(
        self, descriptors: Iterable[Descriptor], path: tuple[Digest, ...], seen: set[Digest]
    ) -> Iterator[Candidate]:
        """Yield the images of an index and of those within it, each once. `path` are the indexes above."""
        for descriptor in descriptors:
            platform = _platform(descriptor)
            digest = Digest(descriptor.get("digest") or "")
            self._parents.setdefault(digest, set()).update(path[-1:])
            if digest in seen or _is_attestation(descriptor, platform):
                continue
            seen.add(digest)
            self._left -= 1
            if self._left < 0:
                raise ImageError(f"{self._what} has more than {_MANIFEST_LIMIT} manifests")
            blob = self._find(digest)
            if blob is None:
                self._miss(platform)
                continue
            raw = _verified(blob, digest, descriptor)
            content = parse_json(raw, f"manifest {digest}")
            if "manifests" in content:
                if len(path) >= _DEPTH_LIMIT:
                    raise ImageError(f"{self._what} nests its indexes too deeply")
                yield from self._candidates(objects(content, "manifests"), (*path, digest), seen)
            elif (kind := artifact_kind(content)) is not None:
                self._artifacts.add(shown(kind))
            elif (known := platform or self._config_platform(content)) is not None:
                yield Candidate(digest, known, content, raw)
            else:
                self._incomplete.add(str(digest))

    def _ancestors(self, digest: Digest) -> frozenset[Digest]:
        """Return the indexes that lead to a manifest."""
        found: set[Digest] = set()
        left = [digest]
        while left:
            more = self._parents.get(left.pop(), set()) - found
            found |= more
            left += more
        return frozenset(found)

    def _miss(self, platform: Platform | None) -> None:
        if platform is not None and preference(platform, self._wanted) is not None:
            self._absent.add(shown(str(platform)))

    def _config_platform(self, manifest: Descriptor) -> Platform | None:
        config = self._config(manifest)
        return None if config is None else ImageConfig.parse(config).platform

    def _config(self, manifest: Descriptor) -> bytes | None:
        descriptor = manifest["config"]
        digest = Digest(descriptor.get("digest") or "")
        blob = self._find(digest)
        return None if blob is None else _verified(blob, digest, descriptor)


def find_image(find: Find, digest: Digest, wanted: Platform, what: str) -> Found:
    """Return the image for a platform that a digest, of a manifest or an index, refers to.

    Raises ImageError when there is none.
    """
    search = Search(find, wanted, what)
    best = search.best([{"digest": str(digest)}])
    if not best:
        raise search.nothing()
    return search.open(best[0])


def artifact_kind(manifest: Descriptor) -> str | None:
    """Return the type of a signature, chart or other artifact from its manifest; None for an image.

    A signature may have an image's config; it is recognized by its layers. Raises ImageError for a malformed
    manifest.
    """
    config = manifest.get("config")
    if not isinstance(config, dict) or "layers" not in manifest:
        raise ImageError("the image manifest is malformed", why="it must have config and layers")
    kind = config.get("mediaType")
    if kind is not None and kind not in _CONFIG_TYPES:
        return str(manifest.get("artifactType") or kind)
    for layer in objects(manifest, "layers"):
        media_type = layer.get("mediaType")
        if media_type is not None and not str(media_type).startswith(_LAYER_TYPES):
            return str(manifest.get("artifactType") or media_type)
    return None


def objects(document: Descriptor, key: str) -> list[Descriptor]:
    """Return a list of objects of a manifest or index. Raises ImageError when it is something else."""
    items = document.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ImageError("the image manifest or index is malformed", why=f"{key} must be a list of objects")
    return items


def _is_attestation(descriptor: Descriptor, platform: Platform | None) -> bool:
    """Return whether a descriptor is of a BuildKit attestation for the image beside it."""
    notes = descriptor.get("annotations")
    mark = notes.get("vnd.docker.reference.type") if isinstance(notes, dict) else None
    return mark == "attestation-manifest" or (platform is not None and platform.os == "unknown")


def _verified(blob: Blob, digest: Digest, descriptor: Descriptor) -> bytes:
    _check_size(blob, digest, descriptor)
    data = whole(blob, str(digest))
    if Digest.of(data, digest.algorithm) != digest:
        raise ImageError(f"blob {digest} is damaged", why="its content has another digest")
    return data


def _check_size(blob: Blob, digest: Digest, descriptor: Descriptor) -> None:
    size = descriptor.get("size")
    if size is not None and size != blob.size:
        raise ImageError(f"blob {digest} is damaged", why=f"it has {blob.size} bytes instead of {size!r}")


def _platform(descriptor: Descriptor) -> Platform | None:
    platform = descriptor.get("platform")
    if platform is None:
        return None
    if not isinstance(platform, dict):
        raise ImageError("the image index is malformed", why="platform must be an object")
    facts = [platform.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(fact, str) for fact in facts):
        raise ImageError("the image index is malformed", why="a platform's parts must be strings")
    return Platform(*facts)


def _listed(found: set[str]) -> str:
    return ", ".join(sorted(found)[:_SHOWN])
