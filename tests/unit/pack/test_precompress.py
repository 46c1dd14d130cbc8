"""Parts that are made while the archive is written: found, and the same artifact comes out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.crafted import file, folder, hardlink, layer, saved, symlink

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.pack.precompress import Ahead
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.vm.guest_rootfs import Guest

LARGE = os.urandom(9_000_000)  # a file of three parts
LOWER = layer([folder("d"), *(file(f"d/{n}", b"%d" % n * 500) for n in range(500)), file("large", LARGE)])
UPPER = layer([file("d/.wh.7", b""), file("new", b"new" * 1000), symlink("l", "/"), hardlink("h", "new")])


@dataclass
class Bench:
    """Packs an archive that is written piece by piece."""

    folder: Path
    guest: Guest
    scratch: Path
    limit: int = 1 << 40

    def pack(
        self, data: bytes, until: Callable[[Parts], bool] | None, *, piece: int = 1 << 20
    ) -> tuple[Digest, list[bool]]:
        """Give the artifact's digest, and for each part that can be made ahead whether it was.

        `until` says when the archive is through; without, nobody watches it.
        """
        archive = self.folder / "image.tar"
        archive.unlink(missing_ok=True)
        with Parts(self.folder / "none") as parts, Ahead(parts, self.scratch, self.limit) as ahead:
            if until is None:
                archive.write_bytes(data)
            else:
                with ahead.watching(archive) as seen, archive.open("xb", buffering=0) as out:
                    for at in range(0, len(data), piece):
                        seen(out.write(data[at : at + piece]))
                    wait_until(partial(until, parts))
            with open_archive(archive) as image:
                image = ahead.marked(image)
                root = flatten(image, verify=False)
                made = [parts.holds(each.key()) for each in root.stretches() if each.key]
                out_path = self.folder / "made.smolmachine"
                out_path.unlink(missing_ok=True)
                done = pack_native(
                    image, root, self.guest, out_path, flatten_version=FLATTEN_VERSION, parts=parts
                )
                return done.digest, made


@pytest.fixture
def bench(tmp_path: Path, guest: Guest) -> Bench:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Bench(tmp_path, guest, scratch)


def count(number: int) -> Callable[[Parts], bool]:
    """Wait until there are so many parts."""
    return lambda parts: len(parts) >= number


@pytest.mark.parametrize("piece", [1000, 1 << 20, 1 << 30])
def test_the_parts_of_a_layer_are_there_when_the_archive_is(bench: Bench, piece: int) -> None:
    plain, none = bench.pack(saved(LOWER), None)
    assert not any(none)
    digest, made = bench.pack(saved(LOWER), count(len(none)), piece=piece)
    assert digest == plain
    assert all(made)


def test_what_the_layers_above_change_is_made_as_always(bench: Bench) -> None:
    plain, parts = bench.pack(saved(LOWER, UPPER), None)
    digest, made = bench.pack(saved(LOWER, UPPER), count(len(parts)))
    assert digest == plain
    assert made.count(False) == 1  # the one that had the file which is hidden


@pytest.mark.parametrize("layers", [[UPPER, LOWER], [LOWER, LOWER], [LOWER, UPPER, layer([])]])
def test_layers_in_any_order_give_the_same_artifact(bench: Bench, layers: list[bytes]) -> None:
    plain, _ = bench.pack(saved(*layers), None)
    assert bench.pack(saved(*layers), count(4))[0] == plain


def test_no_work_is_begun_that_would_come_too_late(bench: Bench) -> None:
    plain, _ = bench.pack(saved(LOWER), None)
    digest, _ = bench.pack(saved(LOWER), lambda _parts: True)
    assert digest == plain


def test_a_layer_that_is_not_what_the_image_says_is_found(bench: Bench) -> None:
    data = saved(LOWER).replace(b"499" * 500, b"499" * 499 + b"498")
    with pytest.raises(ImageError, match="damaged"):
        bench.pack(data, count(4))
    assert not (bench.folder / "made.smolmachine").exists()


def test_a_layer_with_another_digest_in_its_manifest_is_verified_by_who_reads_it(bench: Bench) -> None:
    archive, data = bench.folder / "image.tar", saved(LOWER)
    with Parts(bench.folder / "none") as parts, Ahead(parts, bench.scratch, bench.limit) as ahead:
        with ahead.watching(archive) as seen, archive.open("xb", buffering=0) as out:
            seen(out.write(data))
            wait_until(lambda: len(parts) >= 4)
        with open_archive(archive) as image:
            [only] = image.layers
            for digest, sound in ((None, True), (only.diff_id, True), (Digest.of(b"another"), False)):
                marked = ahead.marked(replace(image, layers=(replace(only, digest=digest),)))
                assert marked.layers[0].sound == sound


@pytest.mark.parametrize("cut", [100, 20_000, 5_000_000, -600])
def test_an_archive_that_is_cut_short_is_told_by_who_reads_it(bench: Bench, cut: int) -> None:
    with pytest.raises(ImageError):
        bench.pack(saved(LOWER)[:cut], lambda _parts: True)


def test_a_layer_that_is_hostile_is_told_by_who_reads_it(bench: Bench) -> None:
    hostile = layer([folder("d"), file("d/f", b"x" * 1000)])
    hostile = hostile[:512] + bytes([hostile[512] ^ 1]) + hostile[513:]  # a header's checksum
    with pytest.raises(ImageError, match="damaged"):
        bench.pack(saved(hostile), lambda _parts: True)


def test_a_hole_without_end_is_left_alone(bench: Bench) -> None:
    records = {"GNU.sparse.realsize": str(1 << 37), "GNU.sparse.map": "0,1000"}
    bench.limit = 1 << 30
    begun = time.process_time()  # of the processor: others may keep it busy
    with pytest.raises(ImageError, match="too large"):
        bench.pack(saved(layer([file("hole", b"x" * 1000, pax_headers=records)])), lambda _parts: True)
    assert time.process_time() - begun < 20


def test_without_room_nothing_is_made_ahead(bench: Bench, small_disk: Path) -> None:
    plain, _ = bench.pack(saved(LOWER), None)
    bench.scratch = small_disk
    digest, made = bench.pack(saved(LOWER), lambda _parts: True)
    assert digest == plain
    assert not any(made)
    assert not list(small_disk.iterdir())
