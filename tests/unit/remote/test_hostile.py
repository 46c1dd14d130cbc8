"""Manifests and indexes of a registry that means harm: each is refused, in little time and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.relay import Relay
from tests.unit.remote.conftest import Signers

from bot_bottle.cache.cache import Cache
from bot_bottle.errors import ArtifactError, BottleError, RegistryError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.image.spec import Digest
from bot_bottle.remote import artifact as remote
from bot_bottle.remote.manifests import ARTIFACT_TYPE, INDEX, MANIFEST
from bot_bottle.remote.pull import pull
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.session import Session

BLOB = {"mediaType": ARTIFACT_TYPE, "digest": str(Digest.of(b"blob")), "size": 5}
HERE = {"os": "linux", "architecture": "amd64"}


def manifest(*layers: object, **changes: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT_TYPE, "layers": layers}
    return json.dumps({**document, **changes}).encode()


def index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


NESTED = index({"mediaType": INDEX, "digest": f"sha256:{'a' * 64}", "size": 3, "platform": HERE})
NO_MANIFEST, UNUSABLE = "did not answer with a manifest", "cannot be used"
CASES = {
    "too large": (MANIFEST, manifest({**BLOB, "size": 1 << 40}), ArtifactError, UNUSABLE),
    "infinite": (MANIFEST, manifest({**BLOB, "size": float("inf")}), RegistryError, "malformed"),
    "negative": (MANIFEST, manifest({**BLOB, "size": -1}), RegistryError, "malformed"),
    "a path": (MANIFEST, manifest({**BLOB, "digest": "sha256:../../x"}), RegistryError, "malformed"),
    "another hash": (
        MANIFEST,
        manifest({**BLOB, "digest": f"sha512:{'a' * 128}"}),
        ArtifactError,
        "cannot be",
    ),
    "two artifacts": (MANIFEST, manifest(BLOB, BLOB), ArtifactError, "not a .smolmachine"),
    "an image": (MANIFEST, manifest(artifactType=None), ArtifactError, "not a .smolmachine"),
    "layers": (MANIFEST, manifest(layers={"a": 1}), ArtifactError, "not a .smolmachine"),
    "a terminal": (MANIFEST, manifest(artifactType="\x1b[31m" * 500), ArtifactError, "not a .smolmachine"),
    "too long": (MANIFEST, manifest(*[BLOB] * 50_000), RegistryError, "sent more than"),
    "a list": (MANIFEST, b"[1]", RegistryError, NO_MANIFEST),
    "deep": (MANIFEST, b'{"layers":' + b"[" * 100_000, RegistryError, NO_MANIFEST),
    "a long number": (
        MANIFEST,
        b'{"a":' + b"9" * 9000 + b"}",
        RegistryError,
        NO_MANIFEST,
    ),
    "a login page": ("text/html", b"<html>\x1b[31m", RegistryError, NO_MANIFEST),
    "no list": (INDEX, b'{"manifests":{}}', ArtifactError, "has no artifact for"),
    "a platform": (INDEX, index({"platform": {"os": "\x1b[1m\nfake"}}), ArtifactError, "has no artifact for"),
    "an index in it": (
        INDEX,
        index({"mediaType": INDEX, "digest": str(Digest.of(NESTED)), "size": len(NESTED), "platform": HERE}),
        ArtifactError,
        "not a .smolmachine",
    ),
}


def answered(relay: Relay, media_type: str, raw: bytes) -> None:
    def answer(_method: str, path: str, _headers: object) -> tuple[int, dict[str, str], bytes] | None:
        if path.endswith(f"manifests/{Digest.of(NESTED)}"):
            return 200, {"Content-Type": INDEX}, NESTED
        return (200, {"Content-Type": media_type}, raw) if path.endswith("manifests/1") else None

    relay.answer = answer


@pytest.mark.parametrize(("media_type", "raw", "kind", "words"), CASES.values(), ids=CASES)
def test_a_hostile_manifest_is_refused(
    reference: Reference, relay: Relay, media_type: str, raw: bytes, kind: type[BottleError], words: str
) -> None:
    answered(relay, media_type, raw)
    with pytest.raises(kind, match=words) as refused:
        pull(reference, None, Cache(paths.artifacts_dir()), Progress())
    assert len(str(refused.value)) < 1000
    assert "\x1b" not in str(refused.value)
    assert len(relay.seen) <= 2


def test_names_in_annotations_are_nobodys_paths(reference: Reference, relay: Relay, artifact: Path) -> None:
    remote.push(Session(reference), artifact, None, 1e9)
    data = artifact.read_bytes()
    blob = {**BLOB, "digest": str(Digest.of(data)), "size": len(data), "annotations": {"title": "/etc/x"}}
    evil = {"org.opencontainers.image.title": "../../../evil"}
    answered(relay, MANIFEST, manifest(blob, annotations=evil))
    entry, _ = pull(reference, None, Cache(paths.artifacts_dir()), Progress())
    assert entry.path.parent == paths.artifacts_dir()
    assert entry.path.read_bytes() == data


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found | {"manifests": found["manifests"] * 5000},
        lambda found: found | {"manifests": [{**found["manifests"][0], "size": 1 << 60}] * 3},
        lambda found: found | {"manifests": [{**each, "digest": 7} for each in found["manifests"]]},
        lambda found: found | {"manifests": "x"},
        lambda found: [found],
    ],
    ids=["many", "large", "no digests", "a text", "a list"],
)
def test_a_hostile_list_of_signatures_makes_nothing_trusted(
    reference: Reference,
    relay: Relay,
    artifact: Path,
    signers: Signers,
    change: Callable[[dict[str, Any]], object],
) -> None:
    remote.push(Session(reference), artifact, None, 1e9, signing_key=signers.other)

    def changed(method: str, path: str, reply: Any) -> Any:
        if method != "GET" or "referrers" not in path:
            return reply
        return reply[0], reply[1], json.dumps(change(json.loads(reply[2]))).encode()

    relay.change = changed
    relay.seen.clear()
    with pytest.raises(BottleError) as refused:
        pull(reference, signers.trusted, Cache(paths.artifacts_dir()), Progress())
    assert "\x1b" not in str(refused.value)
    assert not Cache(paths.artifacts_dir()).list()
    assert len(relay.paths("GET", "manifests")) <= 3
