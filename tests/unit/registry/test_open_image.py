"""What was pushed is opened as an image, whether it is a manifest or an index of several."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard
from tests.support.crafted import config, file, layer
from tests.support.wire import OCI_INDEX, OCI_MANIFEST, Wire

from bot_bottle.errors import ImageError
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.registry.registry import Registry

HERE = Platform.of_this_machine().architecture
ELSEWHERE = "s390x"


def pushed(
    wire: Wire, content: str, architecture: str = HERE, form: str = "tar", **facts: Any
) -> dict[str, Any]:
    """Push an image of one file; give its descriptor."""
    tar = layer([file("which", content.encode())])
    blob = zstandard.compress(tar) if form == "tar+zstd" else tar
    raw = config([tar], architecture)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(wire.push_blob(raw)),
            "size": len(raw),
        },
        "layers": [
            {
                "mediaType": f"application/vnd.oci.image.layer.v1.{form}",
                "digest": str(wire.push_blob(blob)),
                "size": len(blob),
            }
        ],
    }
    platform = {"os": "linux", "architecture": architecture}
    return {**described(wire, document), "platform": platform, **facts}


def described(wire: Wire, document: dict[str, Any], reference: str = "") -> dict[str, Any]:
    digest = wire.push_manifest(document, reference)
    return {"mediaType": document["mediaType"], "digest": str(digest), "size": len(json.dumps(document))}


def index(*manifests: dict[str, Any]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}


def opened(registry: Registry) -> tuple[bytes, frozenset[Digest]]:
    """Give the file's content in what was pushed as app:v1, and the digests that identify the image."""
    with registry.open_image(registry.resolve("app", "v1")) as image, image.layers[0].open() as stream:
        return stream.read()[512:].partition(b"\0")[0], image.digests


@pytest.mark.parametrize("form", ["tar", "tar+zstd"])
def test_an_index_is_opened_as_the_image_for_this_machine(registry: Registry, wire: Wire, form: str) -> None:
    statement = {"platform": {"os": "unknown", "architecture": "unknown"}}
    mine = pushed(wire, "ours", form=form)
    inner = described(
        wire, index(pushed(wire, "other", ELSEWHERE), {**pushed(wire, "of it"), **statement}, mine)
    )
    outer = described(wire, index(inner), "v1")
    content, digests = opened(registry)
    assert content == b"ours"
    assert {Digest(each["digest"]) for each in (mine, inner, outer)} < digests
    assert len(digests) == 4


def test_a_sparse_index_is_opened_where_this_platform_is_there(registry: Registry, wire: Wire) -> None:
    nobody = {"digest": str(Digest.of(b"nobody has it")), "size": 13, "mediaType": OCI_MANIFEST}
    for architecture in (ELSEWHERE, HERE):
        missing = {**nobody, "platform": {"os": "linux", "architecture": architecture}}
        described(
            wire, index(missing, pushed(wire, "ours", HERE if architecture == ELSEWHERE else ELSEWHERE)), "v1"
        )
        if architecture == ELSEWHERE:
            assert opened(registry)[0] == b"ours"
        else:
            with pytest.raises(ImageError, match="what was pushed does not have the image for"):
                opened(registry)


def test_what_is_no_image_is_explained(registry: Registry, wire: Wire) -> None:
    described(wire, index(pushed(wire, "other", ELSEWHERE)), "v1")
    with pytest.raises(ImageError, match="what was pushed has no image for"):
        opened(registry)
    artifact = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.example.config",
            "digest": str(wire.push_blob(b"{}")),
            "size": 2,
        },
        "layers": [],
    }
    described(wire, artifact, "v1")
    with pytest.raises(ImageError, match="has no container image") as caught:
        opened(registry)
    assert "application/vnd.example.config" in caught.value.why
