"""The manifest: the bytes that are written, and what of a foreign one is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot_bottle.errors import ArtifactError
from bot_bottle.smolmachine.manifest import Asset, Assets, LayerAsset, Manifest
from bot_bottle.structs import replace

ASSETS = Assets(Asset("agent-rootfs.tar", 36), (LayerAsset("sha256:2", "layers/2.tar", 10),))
LEAST = Manifest("hello", "sha256:1", "linux/amd64", 1, 512, ASSETS)
# as smolvm's own packer writes it, with keys that are of no use here
FOREIGN: dict[str, Any] = {
    "mode": "vm",
    "image": "alpine:latest",
    "digest": "none",
    "platform": "linux/arm64",
    "workdir": None,
    "user": None,
    "cpus": 255,
    "mem": 4294967295,
    "gpu": False,
    "network": True,
    "host_platform": "darwin/arm64",
    "something": {"new": [1]},
    "assets": {
        "libraries": [{"path": "lib/libkrun.so", "size": 7}],
        "agent_rootfs": {"path": "agent-rootfs.tar", "size": 18446744073709551615},
        "layers": [],
        "storage_template": {"path": "storage.ext4", "size": 21474836480},
        "storage_logical_size": 21474836480,
        "overlay_template": None,
    },
}


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(document))
    place = copy
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    return copy


def test_a_manifest_is_written_with_the_golden_bytes() -> None:
    assert LEAST.to_json() == (
        b'{"mode":"container","image":"hello","digest":"sha256:1","platform":"linux/amd64","cpus":1,"mem":512,'
        b'"image_size":0,"network":false,"assets":{"libraries":[],"agent_rootfs":{"path":"agent-rootfs.tar",'
        b'"size":36},"layers":[{"digest":"sha256:2","path":"layers/2.tar","size":10}]}}'
    )


def test_a_manifest_that_was_written_is_read_with_all_its_values() -> None:
    full = replace(
        LEAST,
        entrypoint=("/bin/sh", "-c"),
        cmd=("echo 'ä'",),
        env=("A=1", "B="),
        workdir="/work",
        user="1000:1000",
        image_size=1 << 40,
        network=True,
        host_platform="linux/amd64",
        created="1970-01-01T00:00:00Z",
        smolvm_version="1.32.2",
    )
    assert Manifest.from_json(full.to_json()) == full


def test_a_foreign_manifest_is_read() -> None:
    manifest = Manifest.from_json(json.dumps(FOREIGN, indent=2).encode())
    assert manifest.mode == "vm"
    assert manifest.network
    assert (manifest.workdir, manifest.user) == ("", "")
    assert manifest.assets.required() == {
        "agent-rootfs.tar": 18446744073709551615,
        "storage.ext4": 21474836480,
    }


@pytest.mark.parametrize(
    "path",
    [
        *[(key,) for key in ("image", "digest", "platform", "cpus", "mem", "assets")],
        *[("assets", key) for key in ("libraries", "agent_rootfs", "layers")],
        ("assets", "agent_rootfs", "path"),
        ("assets", "agent_rootfs", "size"),
    ],
    ids=".".join,
)
def test_what_smolvm_needs_is_required(path: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(json.dumps(without(FOREIGN, *path)).encode())
    assert caught.value.why == f"{'.'.join(path)} is missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpus", 256),
        ("cpus", -1),
        ("cpus", True),
        ("cpus", 1.0),
        ("cpus", "1"),
        ("mem", 1 << 32),
        ("image_size", 1 << 64),
        ("network", 1),
        ("network", None),
        ("env", "A=1"),
        ("env", [1]),
        ("user", 1000),
        ("image", None),
        ("created", None),
        ("image", "\ud800"),
        ("assets", []),
    ],
)
def test_values_of_a_wrong_kind_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(json.dumps({**FOREIGN, key: value}).encode())


def test_a_manifest_that_smolvm_would_not_read_is_not_written() -> None:
    with pytest.raises(ArtifactError, match="too long"):
        replace(LEAST, env=("A=" + "x" * (16 << 20),)).to_json()
    with pytest.raises(ArtifactError, match="not Unicode"):
        replace(LEAST, env=("A=\udcff",)).to_json()
