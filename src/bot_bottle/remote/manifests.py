"""Manifests and indexes of artifacts, in the media types of smolvm, and documents that refer to a manifest.

The index at a tag has one manifest for each platform, as `smolvm pack push` writes it. Where a registry has
no referrers API, the documents that refer to a manifest are in an index under a tag made of its digest.

Sources: OCI image-spec v1.1, manifest.md, image-index.md; OCI distribution-spec v1.1, "Pushing Manifests with
Subject", "Listing Referrers", "Referrers Tag Schema".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from bot_bottle.errors import ArtifactError, ImageError, RegistryError
from bot_bottle.host.text import printable
from bot_bottle.image.spec import INDEX_TYPES, MANIFEST_TYPES, Digest, Platform, parse_json
from bot_bottle.remote.session import NotThereError, Session
from bot_bottle.remote.upload import push_bytes
from bot_bottle.structs import replace

ARTIFACT_TYPE = "application/vnd.smolmachines.smolmachine.v1"
CONFIG_TYPE = "application/vnd.smolmachines.machine.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
_TAG_MAX = 128
_EMBEDDED = 16 << 10  # bytes
_MOST = 50  # documents that refer to a manifest, or platforms, that are looked at
_ACCEPT = {"Accept": ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))}


class Descriptor(Struct, frozen=True):
    """Content of a registry: media type, digest and size in bytes. `kind` is its artifact type, if any.

    `data` is the content itself, where it is embedded (descriptor.md, Properties), else empty.
    """

    media_type: str
    digest: Digest
    size: int
    kind: str = ""
    data: bytes = b""

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        document = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        embedded = {"data": base64.b64encode(self.data).decode()} if self.data else {}
        return document | ({"artifactType": self.kind} if self.kind else {}) | embedded

    @classmethod
    def parse(cls, document: Any) -> Descriptor:
        """Parse a descriptor from an untrusted source. Raises RegistryError."""
        try:
            size, kind = document["size"], document.get("artifactType") or ""
            if type(size) is int and size >= 0 and isinstance(document["mediaType"], str):
                digest, data = Digest(document["digest"]), base64.b64decode(document.get("data") or "")
                sound = len(data) == size and Digest.of(data, digest.algorithm) == digest
                return cls(document["mediaType"], digest, size, str(kind), data if sound else b"")
        except (KeyError, TypeError, ValueError, AttributeError, ImageError):
            pass
        raise RegistryError("the registry has a manifest that is malformed")


def push_artifact(session: Session, config: bytes, blob: Descriptor, mode: str, platform: str) -> Descriptor:
    """Publish the manifest of an artifact, whose blob is there, at the reference's tag. Raises RegistryError.

    Other platforms at the tag stay.
    """
    reference = session.reference
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": Descriptor(CONFIG_TYPE, push_bytes(session, config), len(config)).document(),
        "layers": [blob.document()],
        "annotations": {
            "com.smolmachines.pack.mode": mode,
            "org.opencontainers.image.title": f"{reference.repository}:{reference.tag}",
        },
    }
    raw = _json(document)
    made = Descriptor(MANIFEST, Digest.of(raw), len(raw))
    own_tag = f"{reference.tag}-{platform.replace('/', '-')}"
    put_manifest(session, own_tag if len(own_tag) <= _TAG_MAX else str(made.digest), raw, MANIFEST)
    system, _, architecture = platform.partition("/")
    entry = made.document() | {"platform": {"os": system, "architecture": architecture}}
    others = [each for each in _listed(session, reference.tag) if _platform(each) != platform]
    put_manifest(session, reference.tag, _json(_index([*others, entry])), INDEX)
    return made


def find_artifact(session: Session) -> tuple[Descriptor, Descriptor]:
    """Return the manifest of the reference's artifact for this machine, and the artifact's blob.

    Raises NotThereError, RegistryError, and ArtifactError where it is for other platforms only, or another
    kind of content.
    """
    raw, media_type = read_manifest(session, session.reference.wanted)
    if media_type in INDEX_TYPES:
        raw = _of_platform(session, _parsed(session, raw))
    document = _parsed(session, raw)
    layers = document.get("layers")
    found = [Descriptor.parse(each) for each in layers[:_MOST]] if isinstance(layers, list) else []
    blobs = [each for each in found if each.media_type == ARTIFACT_TYPE]
    if len(blobs) != 1:
        raise ArtifactError(
            f"{session.reference} is not a .smolmachine",
            why=_kind(document),
            next_step="name one that bottle push or smolvm pack push has made",
        )
    return Descriptor(MANIFEST, Digest.of(raw), len(raw)), blobs[0]


def read_manifest(session: Session, wanted: str) -> tuple[bytes, str]:
    """Return a manifest's bytes, whose digest is checked if it was `wanted`, and its media type.

    Raises NotThereError, RegistryError.
    """
    with session.ask("GET", f"manifests/{wanted}", headers=_ACCEPT) as answer:
        raw = answer.document()
        media_type = answer.header("Content-Type").partition(";")[0].strip()
    if ":" in wanted and Digest.of(raw, wanted.partition(":")[0]) != Digest(wanted):
        raise RegistryError(f"{session.host} sent another manifest than {wanted}")
    return raw, media_type


def put_manifest(session: Session, wanted: str, raw: bytes, media_type: str) -> bool:
    """Push a manifest; return whether the registry lists what it refers to. Raises RegistryError."""
    headers = {"Content-Type": media_type}
    with session.ask("PUT", f"manifests/{wanted}", raw, headers, wanted=(201,)) as answer:
        return bool(answer.header("OCI-Subject"))


def attach(session: Session, subject: Descriptor, kind: str, layers: Sequence[tuple[str, bytes]]) -> None:
    """Push a document that refers to `subject`: its layers are pairs of media type and content.

    Raises RegistryError.
    """
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": Descriptor(_EMPTY_TYPE, push_bytes(session, _EMPTY), len(_EMPTY)).document(),
        "layers": [
            _embedding(Descriptor(media_type, push_bytes(session, data), len(data)), data).document()
            for media_type, data in layers
        ],
        "subject": subject.document(),
    }
    raw = _json(document)
    own = Descriptor(MANIFEST, Digest.of(raw), len(raw), kind)
    if not put_manifest(session, str(own.digest), raw, MANIFEST):
        tag = _fallback_tag(subject.digest)
        others = [each for each in _listed(session, tag) if each.get("digest") != str(own.digest)]
        put_manifest(session, tag, _json(_index([own.document(), *others][:_MOST])), INDEX)


def attached(session: Session, subject: Descriptor, kind: str) -> Iterator[list[Descriptor]]:
    """Yield the layers of each document of a kind that refers to `subject`. Raises RegistryError."""
    try:
        with session.ask("GET", f"referrers/{subject.digest}", headers={"Accept": INDEX}) as answer:
            entries = _entries(session, answer.document())
    except NotThereError:
        entries = _listed(session, _fallback_tag(subject.digest))
    listed = (Descriptor.parse(entry) for entry in entries[:_MOST])
    for found in {each.digest: each for each in listed if each.kind in ("", kind)}.values():
        document = _parsed(session, read_manifest(session, str(found.digest))[0])
        about, layers = document.get("subject"), document.get("layers")
        if not isinstance(about, dict) or about.get("digest") != str(subject.digest):
            continue
        if document.get("artifactType") == kind and isinstance(layers, list):
            yield [Descriptor.parse(each) for each in layers[:_MOST]]


def _embedding(content: Descriptor, data: bytes) -> Descriptor:
    """Return a descriptor with its content, if that is small: it saves a request."""
    return replace(content, data=data) if len(data) <= _EMBEDDED else content


def _of_platform(session: Session, index: dict[str, Any]) -> bytes:
    entries = _dicts(index.get("manifests"))
    machine = str(Platform.of_this_machine())
    for entry in entries:
        if _platform(entry) == machine:
            return read_manifest(session, str(Descriptor.parse(entry).digest))[0]
    there = ", ".join(sorted({printable(_platform(entry), limit=40) for entry in entries})) or "none"
    raise ArtifactError(
        f"{session.reference} has no artifact for {machine}",
        why=f"it has some for: {there}",
        next_step=f"push one from a machine of {machine}",
    )


def _listed(session: Session, tag: str) -> list[dict[str, Any]]:
    """Return the entries of the index at a tag; an empty list if it has none."""
    try:
        raw, media_type = read_manifest(session, tag)
    except NotThereError:
        return []
    return _entries(session, raw) if media_type in INDEX_TYPES else []


def _entries(session: Session, raw: bytes) -> list[dict[str, Any]]:
    return _dicts(_parsed(session, raw).get("manifests"))


def _parsed(session: Session, raw: bytes) -> dict[str, Any]:
    try:
        return parse_json(raw, "answer")
    except ImageError as error:
        raise RegistryError(
            f"{session.host} did not answer with a manifest",
            why=f"{error.message}\n{error.why}",
            next_step="check its name: it may be no OCI registry, or behind a login page",
        ) from error


def _kind(document: dict[str, Any]) -> str:
    said = document.get("artifactType")
    if not isinstance(said, str):
        return "it has no artifact type, as images of containers"
    return f"it is of the kind {printable(said, limit=100)}, without one layer of that kind"


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _platform(entry: dict[str, Any]) -> str:
    said = entry.get("platform")
    return f"{said.get('os')}/{said.get('architecture')}" if isinstance(said, dict) else "no platform"


def _fallback_tag(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"[:_TAG_MAX]


def _index(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
