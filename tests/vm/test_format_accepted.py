"""What our packer writes, smolvm takes; what one of them refuses, the other does too. Nothing boots."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bot_bottle.errors import ArtifactError
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Platform
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.options import PackOptions
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.smolmachine.format import read, verify
from bot_bottle.vm.guest_rootfs import find_guest

NEEDED_KEYS = ("image", "digest", "platform", "cpus", "mem", "assets")
NEEDED_ASSETS = ("libraries", "agent_rootfs", "layers")


@dataclass(frozen=True)
class Smolvm:
    """The real program with a home of its own."""

    program: Path
    home: Path

    def __call__(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "SMOLVM_LIB_DIR": str(package_folder()),
        }
        argv = [str(self.program), *map(str, args)]
        return subprocess.run(argv, env=env, cwd=self.home, capture_output=True, text=True, timeout=120)

    def info(self, artifact: Path) -> subprocess.CompletedProcess[str]:
        return self("pack", "run", "--sidecar", artifact, "--info")

    def create(self, artifact: Path, name: str = "test") -> subprocess.CompletedProcess[str]:
        return self("machine", "create", "--from", artifact, "--name", name)


def package_folder() -> Path:
    return Path(str(metadata.distribution("smolmachines").locate_file("smol")))


@pytest.fixture
def smolvm(tmp_path: Path) -> Smolvm:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "smolvm"  # under another name it complains at every call; a link would not do
    program.write_bytes((package_folder() / "smol-vmm").read_bytes())
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return Smolvm(program, home)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes, **facts: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member, data


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image as `docker save` writes it, with all that a config can say of running it."""
    layer = tar_of(
        file("bin/run", b"#!/bin/sh\n", mode=0o4755),
        file("home/me/own", b"mine\n", mode=0o640, uid=1000, gid=100),
        file("home/me/link", b"", type=tarfile.SYMTYPE, linkname="own"),
        file(f"long/{'x' * 200}", b"long"),
    )
    config = {
        "architecture": Platform.of_this_machine().architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/bin/run", "--flag"],
            "Cmd": ["two words", "ünicode"],
            "Env": ["PATH=/bin", "GREETING=hello there"],
            "WorkingDir": "/home/me",
            "User": "1000:100",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    raw = json.dumps(config).encode()
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    path.write_bytes(
        tar_of(
            file("config.json", raw),
            file("layer.tar", layer),
            file("manifest.json", json.dumps(manifest).encode()),
        )
    )
    return path


@pytest.fixture(scope="module")
def packed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as our packer makes it, with smolvm's own guest files."""
    out = tmp_path_factory.mktemp("packed") / "image.smolmachine"
    with open_archive(archive) as image:
        options = PackOptions(name="local/hello:1", cpus=2, mem=1024)
        pack_native(
            image, flatten(image), find_guest(), out, flatten_version=FLATTEN_VERSION, options=options
        )
    return out


def test_it_says_what_we_wrote(smolvm: Smolvm, packed: Path) -> None:
    artifact = verify(packed)
    done = smolvm.info(packed)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert {
        key: value.strip() for key, value in said.items() if key in ("Mode", "Image", "Digest", "Platform")
    } == {
        "Mode": "container",
        "Image": "local/hello:1",
        "Digest": artifact.manifest.digest,
        "Platform": str(Platform.of_this_machine()),
    }
    assert said["CPUs"].strip() == "2"
    assert said["Memory"].strip() == "1024 MiB"
    assert said["Checksum"].strip() == f"{artifact.footer.checksum:08x}"
    assert "GREETING=hello there" in done.stdout


def test_a_machine_is_made_of_it(smolvm: Smolvm, packed: Path) -> None:
    done = smolvm.create(packed)
    assert done.returncode == 0, done.stderr
    [machine] = json.loads(smolvm("machine", "ls", "--json").stdout)
    assert (machine["cpus"], machine["memory_mib"], machine["network"]) == (2, 1024, False)
    assert machine["entrypoint"] + machine["cmd"] == ["/bin/run", "--flag", "two words", "ünicode"]


def test_it_unpacks_to_the_image(smolvm: Smolvm, packed: Path) -> None:
    assert smolvm.create(packed).returncode == 0
    artifact = read(packed)
    shared = smolvm.home / ".cache/smolvm/vms/_shared" / f"{artifact.footer.checksum:08x}"
    layer = shared / "layers" / Path(artifact.manifest.assets.layers[0].path).stem
    files = {str(path.relative_to(layer)) for path in layer.rglob("*") if not path.is_dir()}
    assert files == {"bin/run", "home/me/own", "home/me/link", f"long/{'x' * 200}"}
    assert (layer / "home/me/own").read_bytes() == b"mine\n"
    assert (layer / "home/me/link").readlink() == Path("own")
    stated = {
        path: os.getxattr(layer / path, "user.containers.override_stat").decode()
        for path in ("bin/run", "home/me/own")
    }
    assert stated == {"bin/run": "0:0:04755", "home/me/own": "1000:100:0640"}
    assert (shared / "agent-rootfs/sbin/init").lstat()


def sealed(assets: bytes, manifest: bytes, version: int = 1, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(assets + manifest) if checksum is None else checksum
    sizes = (0, 0, len(assets), len(assets), len(manifest))
    return assets + manifest + struct.pack("<8sIQQQQQI8s", b"SMOLPACK", version, *sizes, crc, b"")


Change = Callable[[bytes, dict[str, Any]], bytes]


def with_manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(assets: bytes, manifest: dict[str, Any]) -> bytes:
        change(manifest)
        return sealed(assets, json.dumps(manifest).encode())

    return apply


def with_assets(change: Callable[[bytes], bytes]) -> Change:
    return lambda assets, manifest: sealed(change(assets), json.dumps(manifest).encode())


def with_bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda assets, manifest: change(sealed(assets, json.dumps(manifest).encode()))


def with_tar(change: Callable[[bytes], bytes], **parameters: int) -> Change:
    def apply(assets: bytes) -> bytes:
        tar = zstandard.ZstdDecompressor().stream_reader(assets, read_across_frames=True).read()
        settings = zstandard.ZstdCompressionParameters.from_level(1, **parameters)
        stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        return stream.compress(change(tar)) + stream.flush()

    return with_assets(apply)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TAKEN: dict[str, Change] = {
    "version 2": lambda assets, manifest: sealed(assets, json.dumps(manifest).encode(), 2),
    "version 3": lambda assets, manifest: sealed(assets, json.dumps(manifest).encode(), 3),
    "one frame": with_tar(lambda tar: tar),
    "window log 27": with_tar(lambda tar: tar, window_log=27),
    "skippable frame": with_assets(lambda assets: b"\x50\x2a\x4d\x18\x02\0\0\0hi" + assets),
    "bytes after the tar": with_tar(lambda tar: tar + b"more"),
    "unknown key": with_manifest(lambda manifest: manifest.update(new={"a": [1]})),
    "nothing optional": with_manifest(
        lambda manifest: [manifest.pop(key) for key in list(manifest) if key not in NEEDED_KEYS]
    ),
    "null for text": with_manifest(lambda manifest: manifest.update(user=None, workdir=None)),
    "mode vm": with_manifest(lambda manifest: manifest.update(mode="vm")),
    "largest numbers": with_manifest(lambda manifest: manifest.update(cpus=255, mem=2**32 - 1)),
}

REFUSED: dict[str, Change] = {
    "version 0": lambda assets, manifest: sealed(assets, json.dumps(manifest).encode(), 0),
    "version 4": lambda assets, manifest: sealed(assets, json.dumps(manifest).encode(), 4),
    "wrong checksum": lambda assets, manifest: sealed(assets, json.dumps(manifest).encode(), checksum=1),
    "flipped in assets": with_bytes(lambda data: flipped(data, 100_000)),
    "flipped magic": with_bytes(lambda data: flipped(data, len(data) - 64)),
    "flipped size": with_bytes(lambda data: flipped(data, len(data) - 64 + 28)),
    "cut": with_bytes(lambda data: data[:-1]),
    "empty": with_bytes(lambda data: b""),
    **{f"no {key}": with_manifest(lambda manifest, key=key: manifest.pop(key)) for key in NEEDED_KEYS},  # type: ignore[misc]
    **{
        f"no assets.{key}": with_manifest(lambda manifest, key=key: manifest["assets"].pop(key))  # type: ignore[misc]
        for key in NEEDED_ASSETS
    },
    "cpus 256": with_manifest(lambda manifest: manifest.update(cpus=256)),
    "cpus as text": with_manifest(lambda manifest: manifest.update(cpus="1")),
    "cpus a fraction": with_manifest(lambda manifest: manifest.update(cpus=1.5)),
    "mem 2**32": with_manifest(lambda manifest: manifest.update(mem=2**32)),
    "network a number": with_manifest(lambda manifest: manifest.update(network=0)),
    "env a text": with_manifest(lambda manifest: manifest.update(env="A=1")),
    "mode empty": with_manifest(lambda manifest: manifest.update(mode="")),
    "mode unknown": with_manifest(lambda manifest: manifest.update(mode="host")),
    "image null": with_manifest(lambda manifest: manifest.update(image=None)),
    "half a surrogate": with_manifest(lambda manifest: manifest.update(image="\ud800")),
    "size negative": with_manifest(lambda manifest: manifest["assets"]["agent_rootfs"].update(size=-1)),
    "manifest a list": lambda assets, _: sealed(assets, b"[]"),
    "no manifest": lambda assets, _: sealed(assets, b""),
}

REFUSED_WHEN_UNPACKED: dict[str, Change] = {
    "window log 28": with_tar(lambda tar: tar, window_log=28),
    "no assets": with_assets(lambda assets: b""),
    "frame cut": with_assets(lambda assets: assets[:-1]),
    "gzip": with_assets(lambda assets: gzip.compress(b"x")),
    "plain tar": with_assets(lambda assets: bytes(10240)),
    "tar cut in a member": with_tar(lambda tar: tar[:1_000_000]),
}


REFUSED_BY_US_ALONE: dict[str, Change] = {
    "bytes after the frames": with_assets(lambda assets: assets + b"more"),
}


def changed(packed: Path, change: Change, folder: Path) -> Path:
    data = packed.read_bytes()
    artifact = read(packed)
    assets = data[: artifact.footer.assets_size]
    path = folder / "changed.smolmachine"
    path.write_bytes(change(assets, json.loads(data[artifact.footer.assets_size : -64])))
    return path


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
def test_both_take_it(smolvm: Smolvm, packed: Path, tmp_path: Path, change: Change) -> None:
    path = changed(packed, change, tmp_path)
    verify(path)
    for done in (smolvm.info(path), smolvm.create(path)):
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_both_refuse_it(smolvm: Smolvm, packed: Path, tmp_path: Path, change: Change) -> None:
    path = changed(packed, change, tmp_path)
    with pytest.raises(ArtifactError):
        verify(path)
    for done in (smolvm.info(path), smolvm.create(path)):
        assert done.returncode != 0, done.stdout


@pytest.mark.parametrize("change", REFUSED_WHEN_UNPACKED.values(), ids=REFUSED_WHEN_UNPACKED)
def test_both_refuse_it_when_they_unpack_it(
    smolvm: Smolvm, packed: Path, tmp_path: Path, change: Change
) -> None:
    path = changed(packed, change, tmp_path)
    with pytest.raises(ArtifactError):
        verify(path)
    done = smolvm.create(path)
    assert done.returncode != 0, done.stdout
    assert smolvm("machine", "ls", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize("change", REFUSED_BY_US_ALONE.values(), ids=REFUSED_BY_US_ALONE)
def test_we_refuse_what_smolvm_overlooks(
    smolvm: Smolvm, packed: Path, tmp_path: Path, change: Change
) -> None:
    path = changed(packed, change, tmp_path)
    with pytest.raises(ArtifactError):
        verify(path)
    assert smolvm.create(path).returncode == 0
