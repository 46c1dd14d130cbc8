"""Images of growing size and number of entries: memory stays, time grows as they do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import Claim, rounds
from benchmarks.pack import MEMORY, cold

ENTRIES = (10_000, 50_000, 200_000)
_FILE = 100_000  # bytes of one file where bytes are what grows
_LINEAR = 1.2  # how much more of it may cost, each


def measure(count: int, largest: int) -> list[Claim]:
    """Pack made images of up to `largest` MB."""
    sizes = (largest // 50, largest // 5, largest)
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        by_bytes = {size: (size * 1_000_000 // _FILE, _FILE) for size in sizes}
        by_entries = {entries: (entries, 100) for entries in ENTRIES}
        return [*_series(count, folder, "MB", by_bytes), *_series(count, folder, "entries", by_entries)]


def _series(count: int, folder: Path, unit: str, images: dict[int, tuple[int, int]]) -> list[Claim]:
    claims = []
    times: dict[int, tuple[float, ...]] = {}
    beyond: dict[int, tuple[float, ...]] = {}  # what the disk takes for the artifact alone
    for amount, (files, size) in images.items():
        archive, peaks = folder / "image.tar", list[float]()
        write_image(archive, files, size)

        def ours(archive: Path = archive, peaks: list[float] = peaks) -> float:
            seconds, peak = cold(folder / "cache", "--archive", archive)
            peaks.append(peak / 1e6)
            return seconds

        def disk() -> None:
            made = next((folder / "cache" / "smolmachines").glob("*.smolmachine"))
            argv = ["dd", f"if={made}", f"of={folder}/copy", "bs=1M", "conv=fsync", "status=none"]
            subprocess.run(argv, check=True)

        took = rounds(count, ours=ours, disk=disk)
        times[amount] = took["ours"]
        beyond[amount] = tuple(ours - disk for ours, disk in zip(*took.values(), strict=True))
        what = f"peak memory, {amount:,} {unit}"
        claims.append(Claim(what, "MB", tuple(peaks), (MEMORY / 1e6,), "the bound", at_most=1))
        archive.unlink()
    return [*claims, *_growth(unit, times, beyond)]


def _growth(
    unit: str, times: dict[int, tuple[float, ...]], beyond: dict[int, tuple[float, ...]]
) -> list[Claim]:
    """Tell what each size takes, and what a unit of the last stretch costs beside one of the first.

    That is without the disk's own time: small files are in memory long before they are on the disk.
    """
    first, middle, last = times
    slopes = [
        tuple(
            1e6 * (more - less) / (b - a)
            for less, more in zip(sorted(beyond[a]), sorted(beyond[b]), strict=True)
        )
        for a, b in ((first, middle), (middle, last))
    ]
    claims = [
        Claim(f"pack of {size:,} {unit}", "s", times[size], times[last], f"of {last:,}", amount=size)
        for size in times
    ]
    what = f"each of {middle:,} to {last:,} {unit}, beyond the disk"
    than = f"each of {first:,} to {middle:,}"
    return [*claims, Claim(what, "us", slopes[1], slopes[0], than, at_most=_LINEAR)]


def write_image(path: Path, files: int, size: int, last: int = 0) -> None:
    """Write an archive, as docker saves them, with one layer of `files` files of `size` bytes each.

    With `last` there is another layer: one file of so many random bytes, which are other ones each time.
    """
    layers = [path.with_suffix(".layer")]
    _write_layer(layers[0], _contents(files, size))
    if last:
        layers.append(path.with_suffix(".last"))
        _write_layer(layers[1], [os.urandom(last)], "last")
    with ExitStack() as stack:
        opened = [stack.enter_context(layer.open("rb")) for layer in layers]
        diff_ids = [f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" for file in opened]
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        names = [f"layer{number}.tar" for number in range(len(layers))]
        manifest = [{"Config": "config.json", "RepoTags": None, "Layers": names}]
        with tarfile.open(path, "w") as tar:
            for name, document in (("config.json", config), ("manifest.json", manifest)):
                data = json.dumps(document).encode()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            for name, file in zip(names, opened, strict=True):
                file.seek(0)
                tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)
    for layer in layers:
        layer.unlink()


def _write_layer(layer: Path, contents: Iterable[bytes], folder: str = "data") -> None:
    with tarfile.open(layer, "w") as tar:
        for number, data in enumerate(contents):
            member = tarfile.TarInfo(f"{folder}/{number // 1000:04}/{number % 1000:03}")
            member.size, member.mtime = len(data), 1_700_000_000
            tar.addfile(member, io.BytesIO(data))


def _contents(count: int, size: int) -> Iterator[bytes]:
    """Give as many contents, none like another, that compress about as well as programs do: to 40 %."""
    source = random.Random(0)  # noqa: S311 - to be the same each time, and not a secret
    for _ in range(count):
        yield source.randbytes(size * 2 // 5).ljust(size, b"\0")
