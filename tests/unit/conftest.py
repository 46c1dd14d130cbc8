"""Fixtures of the unit tests: small images, guest files and artifacts, all real, that the readers open."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import settings

from bot_bottle.cache.cache import Cache, Key
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.artifact import PackResult, pack_native
from bot_bottle.pack.options import PackOptions
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.vm.guest_rootfs import Guest

settings.register_profile("any-machine", deadline=None)  # a busy machine is no failure
settings.load_profile("any-machine")


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what mounts a file system: it needs root."""
    for item in items:
        if "small_disk" in getattr(item, "fixturenames", ()):
            item.add_marker("root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


SaveImage = Callable[..., Path]
Pack = Callable[..., PackResult]


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def save_image(tmp_path: Path) -> SaveImage:
    """Write an archive as `docker save` does: one layer with `files`, and a config."""

    def save(files: Mapping[str, bytes] | None = None, *, architecture: str = "amd64", **config: Any) -> Path:
        layer = tar_of(files or {"etc/hello": b"hello\n"})
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        raw = json.dumps(document).encode()
        name = f"{hashlib.sha256(raw).hexdigest()}.json"
        manifest = [{"Config": name, "RepoTags": ["hello:latest"], "Layers": ["layer.tar"]}]
        path = tmp_path / f"{name[:12]}.tar"
        path.write_bytes(
            tar_of({name: raw, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})
        )
        return path

    return save


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    """Guest files of a few bytes, in place of smolvm's 36 MB."""
    path = tmp_path / "agent-rootfs.tar.zst"
    path.write_bytes(zstandard.compress(tar_of({"sbin/init": b"#!/bin/sh\n"})))
    return Guest(path, "1.32.2")


@pytest.fixture
def pack(guest: Guest) -> Pack:
    """Pack an archive natively."""

    def run(archive: Path, out: Any, **given: Any) -> PackResult:
        given = {"guest": guest, "flatten_version": FLATTEN_VERSION, **given}
        options = PackOptions(**given.pop("options", {}))
        with open_archive(archive, platform=given.pop("platform", None)) as image:
            return pack_native(image, flatten(image), given.pop("guest"), out, options=options, **given)

    return run


@pytest.fixture
def artifact(tmp_path: Path, save_image: SaveImage, pack: Pack) -> Path:
    """A sound artifact of about a kilobyte."""
    path = tmp_path / "sound.smolmachine"
    pack(save_image(Cmd=["/bin/sh"]), path)
    return path


@pytest.fixture
def key() -> Key:
    return Key(Digest.of(b"image"), "linux/amd64", "native", "1.32.2", 1, 1)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache" / "smolmachines")
