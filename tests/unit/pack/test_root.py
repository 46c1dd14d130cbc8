"""Root filesystems from parts of other artifacts: the same bytes as without, and work for what changed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.support.crafted import Member, file, folder, hardlink, layer, saved, symlink
from tests.support.layer_cases import CASES, OURS_ALONE
from tests.support.smolmachines import listed

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.pack.layer_headers import HeaderStore, prune, reuse_headers
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.vm.guest_rootfs import Guest

LARGE = 9_000_000  # bytes: a file of three parts


@dataclass
class Bench:
    """Packs images into one folder, each with what those before it have left."""

    folder: Path
    guest: Guest
    store: HeaderStore

    @property
    def artifacts(self) -> list[Path]:
        return sorted(self.folder.glob("*.smolmachine"))

    def archive(self, *layers: bytes) -> Path:
        path = self.folder / "image.tar"
        path.write_bytes(saved(*layers))
        return path

    def pack(self, *layers: bytes, stored: bool = True, on_open: Callable[[Path], object] = str) -> Digest:
        """Pack an image; `on_open` is given the archive once its manifest has been read."""
        return self.pack_archive(self.archive(*layers), stored=stored, on_open=on_open)

    def pack_archive(
        self, archive: Path, *, stored: bool = True, on_open: Callable[[Path], object] = str
    ) -> Digest:
        with open_archive(archive) as image, self.store.using(), Parts(self.folder) as parts:
            on_open(archive)
            out: BinaryIO | Path = io.BytesIO()
            if stored:
                image = reuse_headers(image, self.store)
                out = self.folder / f"{len(self.artifacts):03}.smolmachine"
            made = pack_native(
                image,
                flatten(image, verify=False),
                self.guest,
                out,
                flatten_version=FLATTEN_VERSION,
                parts=parts if stored else None,
            )
            self.store.publish()
            return made.digest

    def kept(self) -> set[object]:
        """Give all that another pack can use: layers' headers, and parts of artifacts by their keys."""
        keys = {key for path in self.folder.glob("*.parts") for key in listed(path)}
        return keys | {path.name for path in self.store.folder.iterdir() if path.name != "lock"}

    def files(self) -> list[Path]:
        """Give the files that hold it."""
        return [path for path in self.store.folder.iterdir() if path.name != "lock"] + self.artifacts


@pytest.fixture
def bench(tmp_path: Path, guest: Guest) -> Bench:
    (tmp_path / "scratch").mkdir()
    store = HeaderStore(tmp_path / "frames", tmp_path / "scratch")
    with store.using():
        pass
    return Bench(tmp_path, guest, store)


def base() -> list[Member]:
    """A layer of five stretches and more: a large file, a hole, and small ones before and after."""
    source = os.urandom(LARGE)
    small = [file(f"d/{number:04}", source[number * 1000 :][:3000]) for number in range(2000)]
    records = {"GNU.sparse.realsize": str(20_000_000), "GNU.sparse.map": "11000000,1000"}
    hole = file("hole", source[:1000], pax_headers=records)
    return [folder("d"), *small[:1000], file("large", source), hole, *small[1000:], hardlink("h", "large")]


def destroyed(archive: Path) -> None:
    """Overwrite all that an archive holds: who has read its manifest must not need it any more."""
    with archive.open("r+b") as file:
        file.write(bytes(archive.stat().st_size))


@pytest.mark.parametrize("case", [*CASES.values(), *OURS_ALONE.values()], ids=[*CASES, *OURS_ALONE])
def test_a_root_has_the_same_bytes_with_and_without_a_store(bench: Bench, case: object) -> None:
    layers = [layer(members) for members in case.layers]  # type: ignore[attr-defined]
    plain = bench.pack(*layers, stored=False)
    assert bench.pack(*layers) == plain
    assert bench.pack(*layers, on_open=destroyed) == plain


def test_an_image_that_is_known_is_not_read_again(bench: Bench) -> None:
    layers = [layer(base()), layer([file("d/0001", b"other")])]
    plain = bench.pack(*layers, stored=False)
    assert bench.pack(*layers) == plain
    before = bench.kept()
    assert bench.pack(*layers, on_open=destroyed) == plain
    assert bench.kept() == before


def test_a_changed_layer_costs_the_change(bench: Bench) -> None:
    shared = layer(base())
    bench.pack(shared, layer([file("app", b"one")]))
    before = bench.kept()
    changed = [shared, layer([file("app", b"two"), symlink("l", "app")])]
    assert bench.pack(*changed) == bench.pack(*changed, stored=False)
    assert len(bench.kept() - before) == 2  # the layer's headers and its files


def test_what_a_layer_hides_costs_the_stretches_it_hides_from(bench: Bench) -> None:
    shared = layer(base())
    bench.pack(shared)
    before = bench.kept()
    for number, (above, cost) in enumerate(
        [
            ([file(".wh.hole", b"")], 0),
            ([file("d/.wh.0500", b"")], 1),
            ([file("d/.wh..wh..opq", b"")], 0),
            ([file("large", b"small now")], 2),  # itself, and the part that had the name as a link's
        ]
    ):
        layers = [shared, layer(above)]
        assert bench.pack(*layers) == bench.pack(*layers, stored=False), number
        assert len(bench.kept() - before) == cost + 1, number  # the headers of the layer above
        before = bench.kept()


def test_damaged_parts_are_made_again(bench: Bench) -> None:
    layers = [layer(base())]
    plain = bench.pack(*layers)
    kept = bench.kept()
    for path in bench.files():
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    assert bench.pack(*layers) == plain
    assert bench.kept() == kept
    assert bench.pack(*layers, on_open=destroyed) == plain


def test_parts_that_go_while_they_are_used_are_made_again(bench: Bench) -> None:
    layers = [layer(base())]
    plain = bench.pack(*layers)

    def removed(_archive: Path) -> None:
        for path in bench.files():
            path.unlink()

    assert bench.pack(*layers, on_open=removed) == plain


def test_an_artifact_that_goes_while_it_is_read_can_be_read_on(bench: Bench) -> None:
    layers = [layer(base())]
    plain = bench.pack(*layers)
    with open_archive(bench.archive(*layers)) as image, Parts(bench.folder) as parts:
        [key, *others] = [stretch.key() for stretch in flatten(image).stretches() if stretch.key]
        first = parts.read(key)
        assert first is not None
        bench.artifacts[0].unlink()
        assert all(parts.read(other) for other in others)
    assert bench.pack(*layers) == plain


def test_nothing_is_kept_of_a_layer_that_is_damaged(bench: Bench) -> None:
    archive = bench.archive(layer(base()))
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        bench.pack_archive(archive)
    assert not bench.kept()
    assert not bench.artifacts


@pytest.mark.parametrize("what", ["data", "data of a file that is hidden", "whiteout"])
def test_whatever_is_in_a_layer_is_verified_before_anything_is_kept(bench: Bench, what: str) -> None:
    lower, upper = [file("a", b"A" * 5000), file("b", b"B" * 5000)], [file(".wh.b", b"")]
    archive = bench.archive(layer(lower), layer(upper))
    mark = {"data": b"A" * 5000, "data of a file that is hidden": b"B" * 5000, "whiteout": b".wh.b"}[what]
    data = archive.read_bytes()
    archive.write_bytes(data.replace(mark, mark[:-1] + b"C"))
    with pytest.raises(ImageError):
        bench.pack_archive(archive)
    assert not bench.kept()
    assert not bench.artifacts


def test_data_of_a_known_layer_is_verified_when_it_is_needed(bench: Bench) -> None:
    """As when a layer above hides something else now: only the headers come from the store."""
    shared = layer([file("a", b"A" * 5000), file("b", b"B" * 5000)])
    bench.pack(shared)
    before = bench.kept()
    archive = bench.archive(shared, layer([file(".wh.b", b"")]))
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"A" * 5000, b"A" * 4999 + b"C"))
    with pytest.raises(ImageError, match="damaged"):
        bench.pack_archive(archive)
    assert bench.kept() == before
    archive.write_bytes(data)
    bench.pack_archive(archive)


def test_a_layer_of_many_files_is_listed_from_what_is_kept(bench: Bench) -> None:
    layers = [layer([file(f"{number // 100}/{number}", b"") for number in range(20_000)])]
    plain = bench.pack(*layers)
    prune(bench.store.folder, keep_bytes=0)
    assert bench.pack(*layers) == plain  # the headers are read again, and kept
    assert bench.pack(*layers, on_open=destroyed) == plain
