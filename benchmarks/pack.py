"""From an image to an artifact: cold, changed, unchanged; beside docker, zstd and the ways of registries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.clients import crane_program
from tests.support.images import docker_registry_context

from benchmarks import agent_image, peers
from benchmarks.measure import Claim, rounds, watched
from bot_bottle.engine.engine import find_engine
from bot_bottle.registry.container import IMAGE_VARIABLE

CHANGE = 10_000_000  # bytes
MEMORY = 150_000_000
_PACK = "cold pack of the agent image"
_CHANGED = "pack of a changed 10 MB layer"


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure what is claimed of packing the agent image."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        os.environ["BOT_BOTTLE_CACHE_DIR"] = str(folder / "cache")
        os.environ["DOCKER_BUILDKIT"] = "0"  # the same builder for bottle as for the bare build
        image = agent_image.agent_image()
        saved = folder / "saved.tar"
        subprocess.run(["docker", "save", "--output", saved, image], check=True)
        return [
            *_limits(count, image, saved, folder),
            *_registries(count, image, folder),
            *_again(count, image, folder),
            *_start(count),
        ]


def pack(cache: Path, *source: str | Path) -> tuple[float, float]:
    """Run `bottle pack`; give its seconds and its peak memory in bytes."""
    return watched(PROGRAM, "pack", "--quiet", *source, env={"BOT_BOTTLE_CACHE_DIR": str(cache)})


def cold(cache: Path, *source: str | Path) -> tuple[float, float]:
    """The same with an empty cache, and a disk that has nothing left to do for others."""
    shutil.rmtree(cache, ignore_errors=True)
    os.sync()
    return pack(cache, *source)


def _limits(count: int, image: str, saved: Path, folder: Path) -> list[Claim]:
    """Beside what no way can do without: the bytes out of docker, compressed, and on the disk."""
    peaks: dict[str, list[float]] = {"direct": [], "save": []}

    def ours(transport: str) -> float:
        seconds, peak = cold(folder / "cache", "--transport", transport, "--image", image)
        peaks[transport].append(peak)
        return seconds

    def artifact() -> Path:
        return next((folder / "cache" / "smolmachines").glob("*.smolmachine"))

    took = rounds(
        count,
        save=partial(_quiet, "docker", "save", image),
        zstd=partial(_quiet, "zstd", "-3", "-T0", "-q", "-c", saved),
        cat=partial(_quiet, "cat", saved),
        through=partial(ours, "save"),
        direct=partial(ours, "direct"),
        dd=lambda: _quiet(
            "dd", f"if={artifact()}", f"of={folder}/copy", "bs=1M", "conv=fsync", "status=none"
        ),
    )
    slower = max(took["save"], took["zstd"], key=lambda figures: sorted(figures)[len(figures) // 2])
    named = "slower of docker save and zstd -3 -T0"
    claims = [
        Claim(_PACK, "s", took["direct"], slower, named, at_most=1.15),
        Claim(f"{_PACK}, --transport save", "s", took["through"], slower, named, at_most=1.15),
    ]
    for other, than in (
        ("save", "docker save > /dev/null"),
        ("zstd", "zstd -3 -T0 of the saved tar"),
        ("cat", "cat of the saved tar"),
        ("dd", "dd conv=fsync of the artifact"),
    ):
        claims.append(Claim(_PACK, "s", took["direct"], took[other], than))
    for transport, found in peaks.items():
        what = f"peak memory, --transport {transport}"
        megabytes = tuple(each / 1e6 for each in found)
        claims.append(Claim(what, "MB", megabytes, (MEMORY / 1e6,), "the bound", at_most=1))
    return claims


def _registries(count: int, image: str, folder: Path) -> list[Claim]:
    """Beside the ways through a registry, to the point where smolvm would begin to pull."""
    (folder / "registry").mkdir()
    os.environ[IMAGE_VARIABLE] = agent_image.build(docker_registry_context(folder / "registry"))
    engine, crane = find_engine("docker"), crane_program(folder)
    took = rounds(
        count,
        ours=lambda: cold(folder / "cache", "--image", image)[0],
        push=lambda: peers.original(engine, image),
        skopeo=lambda: peers.skopeo(image),
        crane=lambda: peers.crane(crane, image),
    )
    ways = (
        ("push", "registry container and docker push"),
        ("skopeo", "docker save, skopeo copy"),
        ("crane", "docker save, crane push"),
    )
    return [Claim(_PACK, "s", took["ours"], took[way], than, at_most=1 / 2.5) for way, than in ways]


def _again(count: int, image: str, folder: Path) -> list[Claim]:
    """A changed top layer, and a build of which nothing has changed."""
    cache, context = folder / "cache", folder / "changed"
    context.mkdir()
    example = agent_image.EXAMPLE

    newest = image

    def changed() -> float:
        nonlocal newest
        newest = agent_image.changed(image, context, CHANGE)
        return pack(cache, "--image", newest)[0]

    first = rounds(
        count,
        cold=lambda: cold(cache, "--image", image)[0],
        changed=changed,
        save=lambda: _quiet("docker", "save", newest),
    )
    allowed = tuple(0.2 * whole + save for whole, save in zip(first["cold"], first["save"], strict=True))
    pack(cache, example)
    unchanged = rounds(
        count, ours=lambda: pack(cache, example)[0], build=lambda: _quiet("docker", "build", "-q", example)
    )
    return [
        Claim(_CHANGED, "s", first["changed"], allowed, "its docker save + 0.2 cold packs", at_most=1),
        Claim(_CHANGED, "s", first["changed"], first["cold"], "cold pack"),
        Claim("unchanged build", "s", unchanged["ours"], unchanged["build"], "docker build", at_most=1.3),
    ]


def _start(count: int) -> list[Claim]:
    took = rounds(
        max(count, 5),
        help=partial(_quiet, PROGRAM, "--help"),
        python=partial(_quiet, sys.executable, "-c", "pass"),
    )
    return [Claim("bottle --help", "s", took["help"], took["python"], "python -c pass", at_most=4)]


def _quiet(*argv: str | Path) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun
