"""The ephemeral registry: how long until a local image can be pulled, how fast it is pulled; its memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.images import docker_registry_context

from benchmarks import agent_image
from benchmarks.flood import requests_per_second
from benchmarks.measure import Claim, rounds
from benchmarks.peers import docker_registry
from bot_bottle import ephemeral_registry
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.registry.client import Client
from bot_bottle.registry.container import IMAGE_VARIABLE
from bot_bottle.registry.image import open_content

BLOB = 250_000_000  # bytes
CHANGE = 10_000_000
REQUESTS, CONNECTIONS = 2000, 16
MEMORY = 150_000_000


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure all that is claimed of the registry."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        os.environ["BOT_BOTTLE_CACHE_DIR"] = str(folder / "cache")
        engine, image = find_engine("docker"), agent_image.agent_image()
        return [
            *_ready(count, engine, image, folder),
            *_again(count, engine, image, folder),
            *_serving(count, engine, image, folder),
        ]


def _ready(count: int, engine: Engine, image: str, folder: Path) -> list[Claim]:
    """A local image until there is a reference that can be pulled."""
    (folder / "registry").mkdir()
    os.environ[IMAGE_VARIABLE] = agent_image.build(docker_registry_context(folder / "registry"))

    def save() -> None:
        with Path(os.devnull).open("wb") as null:
            subprocess.run([engine.program, "save", image], stdout=null, check=True)

    def load() -> None:
        with ephemeral_registry() as registry:
            registry.load_image(engine, image)

    def command() -> None:
        subprocess.run([PROGRAM, "registry", "--quiet", image, "--", "true"], check=True)

    def container() -> None:
        with ephemeral_registry("container", push=True) as registry:
            registry.push_image(engine, image)

    with ephemeral_registry():
        pass  # the first one imports the server
    took = rounds(count, save=save, load=load, command=command, container=container)
    what = "image to pullable reference"
    return [
        Claim(what, "s", took["load"], took["save"], "docker save > /dev/null", at_most=1.1),
        Claim(f"{what}, as a command", "s", took["command"], took["save"], "docker save > /dev/null"),
        Claim(what, "s", took["load"], took["container"], "container form and docker push", at_most=1 / 2.5),
    ]


def _again(count: int, engine: Engine, image: str, folder: Path) -> list[Claim]:
    """Pushes: the first, and one of a changed image to another registry that keeps the same layers."""
    layers, context = folder / "layers", folder / "changed"
    context.mkdir()

    def push(pushed: str) -> float:
        begun = time.perf_counter()
        with ephemeral_registry(push=True, keep=layers) as registry:
            registry.push_image(engine, pushed)
            return time.perf_counter() - begun

    def first() -> float:
        shutil.rmtree(layers, ignore_errors=True)
        return push(image)

    took = rounds(count, first=first, changed=lambda: push(agent_image.changed(image, context, CHANGE)))
    what = "push with a changed 10 MB layer"
    return [Claim(what, "s", took["changed"], took["first"], "the first push", at_most=0.1)]


def _serving(count: int, engine: Engine, image: str, folder: Path) -> list[Claim]:
    """Pulling by others: ours beside Debian's docker-registry, each in a process of its own."""
    archive = _archive(folder / "blob.tar")
    with _bottle(image, archive) as ours, _docker_registry(archive, folder) as theirs:
        target = f"127.0.0.1:{ours.port}/{ours.repository}-pushed"
        engine.tag(image, target)
        engine.push(target, lambda _line: None)
        engine.untag(target)
        one = rounds(count, ours=lambda: _pull(ours, 1), theirs=lambda: _pull(theirs, 1))
        four = rounds(count, ours=lambda: _pull(ours, 4), theirs=lambda: _pull(theirs, 4))
        flooded = rounds(count, ours=lambda: _flood(ours), theirs=lambda: _flood(theirs))
        memory = ours.peak_memory()
    than = "docker-registry"
    return [
        Claim("one blob of 250 MB", "MB/s", one["ours"], one["theirs"], than, at_least=1),
        Claim("the same, 4 at once", "MB/s", four["ours"], four["theirs"], than, at_least=1),
        Claim("manifests over 16 connections", "1/s", flooded["ours"], flooded["theirs"], than, at_least=1),
        Claim("memory after all that", "MB", (memory / 1e6,), (MEMORY / 1e6,), "the bound", at_most=1),
    ]


@dataclass(frozen=True)
class Served:
    """An image with one large layer, in a registry that is a process."""

    pid: int
    port: int
    repository: str
    manifest: str
    blob: str

    def peak_memory(self) -> int:
        """The most that the process has held in memory, in bytes."""
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return int(found[1]) << 10 if found else 0


@contextmanager
def _bottle(image: str, archive: Path) -> Iterator[Served]:
    command: list[str | Path] = [PROGRAM, "registry", "--quiet", "--push", "--json", image, archive]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        [repository, manifest] = said["images"][1]["reference"].partition("/")[2].split("@")
        port = int(said["registry"].partition(":")[2])
        try:
            yield Served(process.pid, port, repository, manifest, _layer(archive))
        finally:
            process.terminate()


@contextmanager
def _docker_registry(archive: Path, folder: Path) -> Iterator[Served]:
    with docker_registry(folder) as (pid, port), open_content(archive) as content:
        Client(port).push("app", content)
        yield Served(pid, port, "app", str(content.digest), _layer(archive))


def _archive(path: Path) -> Path:
    """Write an image with one layer that no compression makes smaller, as docker saves it."""
    layer = os.urandom(BLOB)
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    content = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _layer(archive: Path) -> str:
    with open_content(archive) as content:
        return str(content.layers[0][0])


def _pull(served: Served, at_once: int) -> float:
    """Have curl pull the blob; give the throughput in MB/s."""
    url = f"http://127.0.0.1:{served.port}/v2/{served.repository}/blobs/{served.blob}"
    begun = time.perf_counter()
    pulls = [subprocess.Popen(["curl", "-sfo", os.devnull, url]) for _ in range(at_once)]
    if any(pull.wait() for pull in pulls):
        raise RuntimeError(f"curl failed: {url}")
    return at_once * BLOB / 1e6 / (time.perf_counter() - begun)


def _flood(served: Served) -> float:
    path = f"/v2/{served.repository}/manifests/{served.manifest}"
    return requests_per_second(served.port, path, REQUESTS, CONNECTIONS)
