"""Blobs that outlive their registry: what one has taken, the next one has, unless it was spoilt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.wire import OCI_MANIFEST, Wire

from bot_bottle import ephemeral_registry
from bot_bottle.errors import RegistryError
from bot_bottle.image.spec import Digest
from bot_bottle.registry.blob_cache import BlobCache

DATA = b"a layer"


def ask(keep: Path | None, method: str = "HEAD", *, push: bool = True) -> tuple[int, bytes]:
    """Ask a registry of its own for the layer."""
    with ephemeral_registry(push=push, keep=keep) as registry, Wire(registry.port, registry.prefix) as wire:
        answer = wire.ask(method, f"app/blobs/{Digest.of(DATA)}")
        return answer.status, answer.body


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    """A folder where a registry has kept the layer."""
    folder = tmp_path / "layers"
    with (
        ephemeral_registry(push=True, keep=folder) as registry,
        Wire(registry.port, registry.prefix) as wire,
    ):
        wire.push_blob(DATA)
    return folder


def test_the_next_registry_has_it_in_every_repository(keep: Path) -> None:
    assert ask(keep) == (200, b"")
    assert ask(keep, "GET") == (200, DATA)
    with ephemeral_registry(push=True, keep=keep) as registry, Wire(registry.port, registry.prefix) as wire:
        for repository in ("app", "other/app"):
            assert wire.ask("HEAD", f"{repository}/blobs/{Digest.of(DATA)}").status == 200
        wire.push_manifest(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {"digest": str(Digest.of(DATA))}}
        )


@pytest.mark.parametrize(("keeps", "push"), [(False, True), (True, False)])
def test_only_a_registry_that_keeps_and_takes_pushes_has_it(keep: Path, keeps: bool, push: bool) -> None:
    assert ask(keep if keeps else None, push=push)[0] == 404


@pytest.mark.parametrize("content", [b"", b"a", b"A layer", DATA + b"."])
def test_what_was_spoilt_is_not_there_and_goes(keep: Path, content: bytes) -> None:
    [path] = keep.iterdir()
    path.write_bytes(content)
    assert ask(keep)[0] == 404
    assert not list(keep.iterdir())


def test_the_folder_is_private(keep: Path) -> None:
    assert keep.stat().st_mode & 0o777 == 0o700


def test_what_was_used_the_longest_ago_goes_first(tmp_path: Path) -> None:
    kept = BlobCache(tmp_path / "layers")
    digests = []
    for number in range(4):
        data = bytes([number]) * 10
        digests.append(Digest.of(data))
        (tmp_path / "blob").write_bytes(data)
        kept.keep(digests[-1], tmp_path / "blob")
        (tmp_path / "blob").unlink()
        os.utime(tmp_path / "layers" / f"sha256-{digests[-1].hex}", (number, number))
    assert kept.take(digests[0], tmp_path / "taken")  # which renews its time of use
    assert kept.trim(25) == 20
    assert [kept.take(digest, tmp_path / digest.hex) for digest in digests] == [True, False, False, True]
    assert kept.trim(25) == 0
    assert kept.trim(0) == 20


def test_a_container_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError), ephemeral_registry("container", keep=tmp_path):
        raise AssertionError("it must be refused")
