"""OCI layouts: from index.json to the one image that is wanted.

Source: OCI image-spec v1.1, image-layout.md, annotations.md (org.opencontainers.image.ref.name).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bot_bottle.errors import ImageError
from bot_bottle.image.archive_index import Members, document
from bot_bottle.image.index import Candidate, Descriptor, Found, Search, objects
from bot_bottle.image.layers import Blob
from bot_bottle.image.names import means
from bot_bottle.image.saved import no_such_name, several
from bot_bottle.image.spec import Digest, Platform, parse_json

# annotations with an image's name in index.json; containerd and docker write the full name in the first
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def is_layout(members: Members) -> bool:
    """Return whether an archive is an OCI layout. Newer docker-save archives are both; this form has more."""
    return members.find("oci-layout") is not None and members.find("index.json") is not None


def read(members: Members, what: str, wanted: Platform, name: str | None = None) -> Found:
    """Return the image with this name (None: the only one) for a platform. Raises ImageError."""
    marker = parse_json(document(members, "oci-layout") or b"", "oci-layout file")
    if marker.get("imageLayoutVersion") != "1.0.0":
        raise ImageError("the OCI layout has an unknown version", why=repr(marker.get("imageLayoutVersion")))
    index = parse_json(document(members, "index.json") or b"", "index.json")
    search = Search(partial(find_blob, members), wanted, "the archive")
    found: dict[Digest, tuple[set[str], Candidate]] = {}
    for each, descriptors in _by_name(objects(index, "manifests")).items():
        for candidate in search.best(descriptors)[: 1 if each else None]:
            found.setdefault(candidate.digest, (set(), candidate))[0].add(each)
    if not found:
        raise search.nothing()
    chosen = {
        digest: each
        for digest, each in found.items()
        if name is None or means(name, each[0], search.digests(each[1]))
    }
    if not chosen:
        raise no_such_name(name or "", _summary(found))
    if len(chosen) > 1:
        raise several(f"the archive has several images for {wanted}", _summary(chosen), what)
    [(_, candidate)] = chosen.values()
    return search.open(candidate)


def _summary(found: Mapping[Digest, tuple[set[str], Candidate]]) -> list[tuple[str, str]]:
    return [(str(digest), min(names)) for digest, (names, _) in found.items()]


def find_blob(members: Members, digest: Digest) -> Blob | None:
    """Return a blob of a layout, or None where it does not exist. Raises ImageError."""
    return members.find(f"blobs/{digest.algorithm}/{digest.hex}")


def _by_name(descriptors: list[Descriptor]) -> dict[str, list[Descriptor]]:
    """Group the descriptors in index.json by the name of the image; "" for those without."""
    names: dict[str, list[Descriptor]] = {}
    for descriptor in descriptors:
        notes = descriptor.get("annotations")
        texts = [notes.get(key) for key in _NAMES] if isinstance(notes, dict) else []
        name = next((text for text in texts if text and isinstance(text, str)), "")
        names.setdefault(name, []).append(descriptor)
    return names
