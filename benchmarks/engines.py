"""A cold pack from the engines of today, beside what each way out of them costs at least.

Each engine is a private one, by name (scripts/engine list). Reading an image where its engine keeps it takes
root; push and save are what an ordinary user has.

`python -m benchmarks.engines ROUNDS ARCHIVE [WAY...]` measures the engine that answers, by all ways or those,
and prints each way's seconds as JSON. This is also how an ordinary user measures a rootless podman.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from isal import igzip

from benchmarks import agent_image
from benchmarks.measure import Claim, rounds
from benchmarks.pack import CHANGE, cold, pack
from bot_bottle.image.archive import open_archive

CONTAINERD, OVERLAY2, PODMAN = "docker-28-containerd", "docker-28-overlay2", "podman-5.8"

_CHECKOUT = Path(__file__).parents[1]
_PIECE = 1 << 20
_IMAGE = "bot-bottle-bench:agent"
_CHANGED = "bot-bottle-bench:changed"

Figures = dict[str, tuple[float, ...]]


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure one engine after another; podman gets the image that docker has built."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        archive = Path(name) / "saved.tar"
        containerd = _of(CONTAINERD, count, archive)
        archive.unlink()
        overlay2 = _of(OVERLAY2, count, archive)
        podman = _of(PODMAN, count, archive)
    return [*_containerd(containerd), *_overlay2(overlay2), *_podman(podman)]


def _of(engine: str, count: int, archive: Path) -> Figures:
    command: list[str | Path] = [_CHECKOUT / "scripts" / "engine", "run", "--engine", engine, "--"]
    command += [sys.executable, "-m", "benchmarks.engines", str(count), archive]
    done = subprocess.run(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, check=True)
    return {way: tuple(figures) for way, figures in json.loads(done.stdout).items()}


def _containerd(took: Figures) -> list[Claim]:
    what = "docker 28, containerd's image store: cold pack"
    least = tuple(map(sum, zip(took["zstd"], took["verified"], strict=True)))
    bare = tuple(map(sum, zip(took["zstd"], took["decompressed"], strict=True)))
    named = "zstd -3 -T0 of the layers, and isal with SHA-256"
    return [
        Claim(f"{what}, direct", "s", took["direct"], least, named, at_most=1.15),
        Claim(f"{what}, direct", "s", took["direct"], bare, "zstd -3 -T0 of the layers, and isal alone"),
        Claim(f"{what}, push", "s", took["push"], took["save"], "docker save > /dev/null", at_most=1.3),
        Claim(f"{what}, --transport save", "s", took["saved"], took["save"], "docker save > /dev/null"),
        Claim("a changed 10 MB layer, push", "s", took["changed"], took["push"], "cold pack", at_most=0.15),
    ]


def _overlay2(took: Figures) -> list[Claim]:
    what = "docker 28, overlay2: cold pack"
    slower = max(took["save"], took["zstd"], key=lambda figures: sorted(figures)[len(figures) // 2])
    named = "slower of docker save and zstd -3 -T0"
    return [
        Claim(f"{what}, direct", "s", took["direct"], slower, named, at_most=1.15),
        Claim(f"{what}, --transport save", "s", took["saved"], slower, named, at_most=1.3),
    ]


def _podman(took: Figures) -> list[Claim]:
    what = f"podman 5.8, {'as root' if 'direct' in took else 'rootless'}: cold pack"
    ways = {"direct": "direct", "saved": "--transport save"}
    return [
        Claim(f"{what}, {named}", "s", took[way], took["save"], "podman save > /dev/null")
        for way, named in ways.items()
        if way in took
    ]


def figures(count: int, archive: Path, only: list[str]) -> Figures:
    """Measure the engine that answers, by all ways or `only` some.

    Its image is saved in `archive`, or loaded from it.
    """
    engine = os.environ.get("BOT_BOTTLE_ENGINE") or "docker"
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        _prepare(engine, archive)
        plain, compressed = _layers(archive, folder)

        def ours(transport: str) -> float:
            return cold(folder / "cache", "--transport", transport, "--image", _IMAGE)[0]

        def changed() -> float:
            _build_changed(engine, folder / "changed")
            return pack(folder / "cache", "--transport", "push", "--image", _CHANGED)[0]

        ways: dict[str, Callable[[], float]] = {
            "save": partial(_quiet, engine, "save", _IMAGE),
            "zstd": partial(_quiet, "zstd", "-3", "-T0", "-q", "-c", plain),
            "saved": partial(ours, "save"),
        }
        if os.geteuid() == 0:
            ways["direct"] = partial(ours, "direct")
        if compressed:
            ways |= {
                "decompressed": partial(_decompress, compressed, verify=False),
                "verified": partial(_decompress, compressed, verify=True),
                "push": partial(ours, "push"),
                "changed": changed,  # after the push, which leaves its layers in the cache
            }
        return rounds(count, **{name: way for name, way in ways.items() if not only or name in only})


def _prepare(engine: str, archive: Path) -> None:
    """Have the image in the engine, and in the archive."""
    if archive.exists():
        done = subprocess.run([engine, "load", "-i", archive], capture_output=True, check=True, text=True)
        subprocess.run([engine, "tag", done.stdout.split()[-1], _IMAGE], check=True)
        return
    subprocess.run([agent_image.EXAMPLE / "prepare"], check=True, stdout=sys.stderr)
    _build(agent_image.EXAMPLE, _IMAGE)
    subprocess.run([engine, "save", "-o", archive, _IMAGE], check=True)


def _build(folder: Path, tag: str) -> None:
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, folder], check=True, stdout=sys.stderr)


def _build_changed(engine: str, folder: Path) -> None:
    """Build the image with a new layer on top; without the one of the round before."""
    assert engine == "docker"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(os.urandom(CHANGE))
    (folder / "Dockerfile").write_text(f"FROM {_IMAGE}\nCOPY file /changed\n")
    _build(folder, _CHANGED)


def _layers(archive: Path, folder: Path) -> tuple[Path, list[Path]]:
    """Write the image's layers to a file, uncompressed; and each that is compressed to one as it is."""
    compressed = []
    with open_archive(archive) as image, (folder / "plain").open("wb") as plain:
        for number, layer in enumerate(image.layers):
            with layer.open() as stream:
                while data := stream.some(_PIECE):
                    plain.write(data)
            if layer.compressed:
                path = folder / f"layer{number}.gz"
                path.write_bytes(layer.blob.pread(layer.size, 0))
                compressed.append(path)
    return folder / "plain", compressed


def _decompress(layers: list[Path], *, verify: bool) -> float:
    """Decompress layers by the fastest library there is; with `verify` hash them as a reader has to."""
    begun = time.perf_counter()
    for path in layers:
        plain, stored = hashlib.sha256(), hashlib.sha256()
        if verify:
            with path.open("rb") as file:
                while data := file.read(_PIECE):
                    stored.update(data)
        with igzip.open(path) as stream:  # type: ignore[no-untyped-call]
            while data := stream.read(_PIECE):
                if verify:
                    plain.update(data)
    return time.perf_counter() - begun


def _quiet(*argv: str | Path) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    print(json.dumps(figures(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
