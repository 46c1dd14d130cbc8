"""Registry clients that were not written for bot-bottle. Each pulls, pushes, and says which digest it saw."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import zstandard

from bot_bottle.vm.package import package_folder
from tests.support.engines import Podman, call


class Client(Protocol):
    """A registry client with the test's image at hand."""

    def pull(self, reference: str, folder: Path) -> str:
        """Pull an image, `folder` being new and empty; give the digest of the manifest that came."""

    def push(self, target: str) -> None:
        """Push the test's image."""


@dataclass(frozen=True)
class Skopeo:
    layout: Path

    def pull(self, reference: str, folder: Path) -> str:
        options = ("--all", "--preserve-digests", "--src-tls-verify=false")
        skopeo("copy", *options, f"docker://{reference}", f"oci:{folder}:x")
        return in_layout(folder)

    def push(self, target: str) -> None:
        skopeo(
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            f"oci:{self.layout}",
            f"docker://{target}",
        )


@dataclass(frozen=True)
class Crane:
    """It tries https first, and so needs a registry that survives that."""

    program: Path
    layout: Path

    def pull(self, reference: str, folder: Path) -> str:
        call([str(self.program), "pull", "--format=oci", reference, str(folder)], {"HOME": "/nonexistent"})
        return in_layout(folder)

    def push(self, target: str) -> None:
        call([str(self.program), "push", str(self.layout), target], {"HOME": "/nonexistent"})


@dataclass(frozen=True)
class DockerClient:
    """docker; `image` is its own word for the image, and `config` the digest of that image's config."""

    program: str
    image: str
    config: str
    env: Mapping[str, str] = field(repr=False)

    def pull(self, reference: str, folder: Path) -> str:
        self._docker("pull", "--quiet", reference)
        try:
            [entry] = json.loads(self._docker("image", "inspect", reference))
        finally:
            self._docker("rmi", reference)
        name, _, digest = reference.partition("@")
        assert entry["Id"] in (self.config, digest)  # the latter with containerd's image store
        [seen] = [each for each in entry["RepoDigests"] if each.startswith(f"{name}@")]
        return str(seen).partition("@")[2]

    def push(self, target: str) -> None:
        self._docker("tag", self.image, target)
        try:
            self._docker("push", target)
        finally:
            self._docker("rmi", target)

    def _docker(self, *args: str) -> bytes:
        return call([self.program, *args], dict(self.env))


@dataclass(frozen=True)
class PodmanClient:
    podman: Podman
    saved: Path
    config: str

    def pull(self, reference: str, folder: Path) -> str:
        self._remove()  # of an image that is there, podman says the digest by which it came before
        self.podman.podman("pull", "--quiet", "--tls-verify=false", reference)
        [entry] = json.loads(self.podman.podman("image", "inspect", reference))
        self.podman.podman("rmi", "--force", self.config)
        assert f"sha256:{entry['Id']}" == self.config
        return str(entry["Digest"])

    def push(self, target: str) -> None:
        self.podman.podman("load", "--input", str(self.saved))
        self.podman.podman("push", "--tls-verify=false", self.config, target)
        self.podman.podman("rmi", "--force", self.config)

    def _remove(self) -> None:
        command = ["podman", "rmi", "--force", self.config]
        subprocess.run(command, env=self.podman.env, capture_output=True, timeout=120)


def skopeo(*args: str) -> bytes:
    """Run skopeo; give its standard output."""
    done = subprocess.run(["skopeo", *args], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_layout(folder: Path) -> str:
    """Give the digest of the one manifest in an OCI layout."""
    [entry] = json.loads((folder / "index.json").read_text())["manifests"]
    return str(entry["digest"])


def crane_program(folder: Path) -> Path:
    """Take crane out of smolvm's guest files, where smolvm pulls images with it."""
    package = package_folder()
    assert package, "the package smolmachines is not installed"
    target = folder / "crane"
    with (
        (package[0] / "agent-rootfs.tar.zst").open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            if member.name.removeprefix("./") == "usr/local/bin/crane":
                content = tar.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
                target.chmod(0o755)
                return target
    raise AssertionError("smolvm's guest has no crane any more")
