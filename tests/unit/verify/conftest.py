"""An artifact with any root filesystem, for an image with any layers: what a faulty packer could make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.support.crafted import Member, config, files_tar, layer, saved_files

from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest, ImageConfig
from bot_bottle.smolmachine.manifest import Asset, Assets, LayerAsset, Manifest
from bot_bottle.smolmachine.writer import Writer
from bot_bottle.structs import replace
from bot_bottle.verify.verify import Report, verify

Settings = dict[str, Any]
Compare = Callable[..., Report]

AGENT = b"the guest's own files"


def saved_image(path: Path, layers: list[list[Member]], run: Settings) -> bytes:
    """Write an image archive and give its config."""
    tars = [layer(members) for members in layers]
    conf = config(tars, **run)
    files = saved_files(tars)
    [entry] = json.loads(files.pop("manifest.json"))
    del files[entry["Config"]]
    entry["Config"] = "config.json"
    path.write_bytes(files_tar({**files, "config.json": conf, "manifest.json": json.dumps([entry]).encode()}))
    return conf


def written_artifact(path: Path, root: bytes, conf: bytes, **changes: Any) -> None:
    """Write an artifact whose manifest is right for an image config, but for `changes`."""
    parsed = ImageConfig.parse(conf)
    manifest = Manifest(
        image="crafted",
        digest=str(Digest.of(conf)),
        platform="linux/amd64",
        cpus=1,
        mem=512,
        assets=Assets(Asset("agent-rootfs.tar", len(AGENT)), (LayerAsset("x", "layers/x.tar", len(root)),)),
        entrypoint=parsed.entrypoint,
        cmd=parsed.cmd,
        env=parsed.env,
        workdir=parsed.workdir,
        user=parsed.user,
    )
    with path.open("wb") as file, Writer(file) as writer:
        for name, data in {"agent-rootfs.tar": AGENT, "layers/x.tar": root}.items():
            writer.begin(name, len(data))
            writer.add(data)
        writer.finish(replace(manifest, **changes))


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Compare an image of these layers with an artifact of this root filesystem."""

    def run(
        layers: list[list[Member]], root: Iterable[Member], settings: Settings | None = None, **changes: Any
    ) -> Report:
        conf = saved_image(tmp_path / "image.tar", layers, settings or {})
        written_artifact(tmp_path / "made.smolmachine", layer(root), conf, **changes)
        with open_archive(tmp_path / "image.tar") as image:
            return verify(tmp_path / "made.smolmachine", image, tmp_path)

    return run
