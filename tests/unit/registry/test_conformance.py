"""Every kind of content that the OCI conformance suite pushes, each through all that can be asked of it.

The ways of its other areas, request by request, are in test_pull, test_push and test_listings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.wire import OCI_INDEX, OCI_MANIFEST, Wire

from bot_bottle.image.spec import Digest

CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
KIND = "application/vnd.example.kind"
Document = dict[str, Any]


class Maker:
    """Pushes what a manifest is made of, and describes it."""

    def __init__(self, wire: Wire, algorithm: str) -> None:
        self._wire = wire
        self._algorithm = algorithm

    def blob(self, data: bytes, media_type: str) -> Document:
        digest = self._wire.push_blob(data, algorithm=self._algorithm)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def elsewhere(self, media_type: str) -> Document:
        """Describe something that nobody has pushed."""
        return {
            "mediaType": media_type,
            "digest": str(Digest.of(b"nobody has it", self._algorithm)),
            "size": 13,
        }

    def image(self, **more: Any) -> Document:
        layers = [self.blob(b"one", f"{LAYER}+gzip"), self.blob(b"two", f"{LAYER}+zstd")]
        config = self.blob(b"{}", CONFIG)
        return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more}

    def index(self, *manifests: Document, **more: Any) -> Document:
        listed = [self.pushed(manifest) for manifest in manifests]
        return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed, **more}

    def pushed(self, manifest: Document) -> Document:
        """Push a manifest by its digest; give its descriptor."""
        data = json.dumps(manifest).encode()
        digest = Digest.of(data, self._algorithm)
        headers = {"Content-Type": manifest["mediaType"]}
        assert self._wire.ask("PUT", f"app/manifests/{digest}", data, headers).status == 201
        return {"mediaType": manifest["mediaType"], "digest": str(digest), "size": len(data)}


KINDS: dict[str, Callable[[Maker], Document]] = {
    "image": lambda make: make.image(),
    "image, uncompressed": lambda make: make.image(layers=[make.blob(b"tar", LAYER)]),
    "no layers": lambda make: make.image(layers=[]),
    "empty blob": lambda make: make.image(layers=[make.blob(b"", LAYER)]),
    "large manifest": lambda make: make.image(annotations={"large": "x" * ((4 << 20) - 4000)}),
    "index": lambda make: make.index(make.image(), make.image(annotations={"second": "yes"})),
    "nested index": lambda make: make.index(make.index(make.image()), make.image()),
    "empty index": lambda make: make.index(),
    "artifact": lambda make: make.image(artifactType=KIND, config=make.blob(b"{}", EMPTY)),
    "artifact without layers": lambda make: make.image(
        artifactType=KIND, config=make.blob(b"{}", EMPTY), layers=[make.blob(b"{}", EMPTY)]
    ),
    "artifact index": lambda make: make.index(make.image(), artifactType=KIND),
    "artifact with a subject": lambda make: make.image(artifactType=KIND, subject=make.pushed(make.image())),
    "index with a subject": lambda make: make.index(make.image(), subject=make.pushed(make.image())),
    "missing subject": lambda make: make.image(subject=make.elsewhere(OCI_MANIFEST)),
    "data field": lambda make: make.image(
        config={**make.blob(b"{}", EMPTY), "data": base64.b64encode(b"{}").decode()}
    ),
    "sparse image": lambda make: make.image(layers=[make.blob(b"one", LAYER), make.elsewhere(LAYER)]),
    "sparse index": lambda make: {
        **make.index(make.image(), subject=make.pushed(make.image())),
        "manifests": [
            {**make.pushed(make.image()), "platform": {"os": "linux", "architecture": "amd64"}},
            {**make.elsewhere(OCI_MANIFEST), "platform": {"os": "linux", "architecture": "arm64"}},
        ],
    },
    "layers that are not distributed": lambda make: make.image(
        layers=[make.elsewhere("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")]
    ),
    "custom fields": lambda make: make.image(
        custom={"field": [1, None]}, config={**make.blob(b"{}", CONFIG), "x": 1}
    ),
}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_it_was_pushed_until_it_is_deleted(wire: Wire, kind: str, algorithm: str) -> None:
    document = KINDS[kind](Maker(wire, algorithm))
    data, media_type = json.dumps(document).encode(), document["mediaType"]
    digest = Digest.of(data, algorithm)
    answer = wire.ask(
        "PUT", f"app/manifests/{digest}?tag=first&tag=second", data, {"Content-Type": media_type}
    )
    assert (answer.status, answer["docker-content-digest"]) == (201, str(digest))
    for reference in ("first", "second", str(digest)):
        got = wire.ask("GET", f"app/manifests/{reference}")
        head = wire.ask("HEAD", f"app/manifests/{reference}")
        assert (got.status, got.body, head.status, head.body) == (200, data, 200, b"")
        for each in (got, head):
            said = [each[name] for name in ("content-type", "content-length", "docker-content-digest")]
            assert said == [media_type, str(len(data)), str(digest)]
    assert wire.ask("GET", "app/tags/list").json["tags"] == ["first", "second"]
    _check_referrers(wire, document, digest)
    assert wire.ask("DELETE", "app/manifests/first").status == 202
    assert wire.ask("GET", "app/tags/list").json["tags"] == ["second"]
    assert wire.ask("DELETE", f"app/manifests/{digest}").status == 202
    for reference in ("first", "second", str(digest)):
        assert wire.ask("GET", f"app/manifests/{reference}").code == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("kind", KINDS)
def test_a_tag_alone_names_it_by_sha256(wire: Wire, kind: str) -> None:
    document = KINDS[kind](Maker(wire, "sha512"))
    data = json.dumps(document).encode()
    answer = wire.ask("PUT", "app/manifests/latest", data, {"Content-Type": document["mediaType"]})
    assert (answer.status, answer["docker-content-digest"]) == (201, str(Digest.of(data)))


def _check_referrers(wire: Wire, document: Document, digest: Digest) -> None:
    subject = document.get("subject")
    if subject is None:
        return
    answer = wire.ask("GET", f"app/referrers/{subject['digest']}")
    [found] = answer.json["manifests"]
    assert (answer["content-type"], found["digest"]) == (OCI_INDEX, str(digest))
    # an image without an artifactType is of its config's type
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
    assert found.get("artifactType") == kind
    if kind:
        for asked, count in ((kind, 1), ("application/vnd.example.other", 0)):
            filtered = wire.ask(
                "GET", f"app/referrers/{subject['digest']}?artifactType={asked.replace('+', '%2B')}"
            )
            assert len(filtered.json["manifests"]) == count
            assert filtered["oci-filters-applied"] == "artifactType"
