"""OCI layouts: from index.json to the one image that is wanted.

Source: OCI image-spec v1.1, image-layout.md, annotations.md (org.opencontainers.image.ref.name).
"""

from __future__ import annotations

from functools import partial

from bot_bottle.errors import ImageError
from bot_bottle.image.archive_index import Members, document, shown
from bot_bottle.image.index import Candidate, Descriptor, Found, Search, objects
from bot_bottle.image.layers import Blob
from bot_bottle.image.spec import Digest, Platform, parse_json

# what names an image in index.json; containerd and docker write the whole name in the first one
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def is_layout(members: Members) -> bool:
    """Whether an archive is an OCI layout. Newer docker-save archives are both; this form says more."""
    return members.find("oci-layout") is not None and members.find("index.json") is not None


def read(members: Members, wanted: Platform) -> Found:
    """Return the image for a platform. Raises ImageError when there is none, or more than one."""
    marker = parse_json(document(members, "oci-layout") or b"", "oci-layout file")
    if marker.get("imageLayoutVersion") != "1.0.0":
        raise ImageError(
            "the OCI layout has a version that is not known", why=repr(marker.get("imageLayoutVersion"))
        )
    index = parse_json(document(members, "index.json") or b"", "index.json")
    search = Search(partial(find_blob, members), wanted, "the archive")
    found: dict[Digest, tuple[str, Candidate]] = {}
    for name, descriptors in _by_name(objects(index, "manifests")).items():
        for candidate in search.best(descriptors)[: 1 if name else None]:
            found.setdefault(candidate.digest, (name, candidate))
    if not found:
        raise search.nothing()
    if len(found) > 1:
        raise ImageError(
            f"the archive holds several images for {wanted}",
            why="\n".join(f"{digest} {shown(name)}".rstrip() for digest, (name, _) in found.items()),
            next_step="save one image alone",
        )
    [(_, chosen)] = found.values()
    return search.open(chosen)


def find_blob(members: Members, digest: Digest) -> Blob | None:
    """Return a blob of a layout, or None where it is not there. Raises ImageError."""
    return members.find(f"blobs/{digest.algorithm}/{digest.hex}")


def _by_name(descriptors: list[Descriptor]) -> dict[str, list[Descriptor]]:
    """Sort what index.json lists by the name of the image; "" is for what has none."""
    names: dict[str, list[Descriptor]] = {}
    for descriptor in descriptors:
        notes = descriptor.get("annotations")
        texts = [notes.get(key) for key in _NAMES] if isinstance(notes, dict) else []
        name = next((text for text in texts if text and isinstance(text, str)), "")
        names.setdefault(name, []).append(descriptor)
    return names
