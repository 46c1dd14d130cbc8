"""Compressed layers are read side by side, verified by the first reading, and make the same artifact."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.corpus.crafted import Layout, Pack, gzipped, plain, zstd
from tests.support.crafted import file, folder, hardlink, layer, symlink
from tests.support.layer_cases import CASES, together

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.layer_headers import HeaderStore, reuse_headers
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, Flattened, flatten
from bot_bottle.vm.guest_rootfs import Guest

TARS = [
    layer([folder("d"), *(file(f"d/{n}", b"%d" % n * 500) for n in range(500)), file("l", bytes(5_000_000))]),
    layer(
        [file("d/.wh.7", b""), file("new", os.urandom(3_000_000)), symlink("s", "/"), hardlink("h", "new")]
    ),
    layer([file("last")]) + bytes(20_000),
    layer([]),
]
ALONE = {name: case for name, case in CASES.items() if not case.alone}
PLAIN: list[Pack] = [plain] * 4
KINDS: dict[str, list[Pack]] = {
    "gzip": [gzipped] * 4,
    "zstd": [zstd] * 4,
    "mixed": [gzipped, plain, zstd, gzipped],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HeaderStore]:
    (tmp_path / "scratch").mkdir()
    store = HeaderStore(tmp_path / "headers", tmp_path / "scratch")
    with store.using():
        yield store


@contextmanager
def opened(path: Path, tars: list[bytes], packs: list[Pack], *, immutable: bool = True) -> Iterator[Image]:
    made = Layout(path)
    archive = made.finish(made.image(tars, packs, Platform.of_this_machine().architecture))
    with open_archive(archive) as image:
        layers = tuple(replace(layer, immutable=immutable) for layer in image.layers)
        yield replace(image, layers=layers)


def listed(root: Flattened) -> list[tuple[bytes, int, int]]:
    return [(path, node.layer, node.offset) for path, node in root.files()]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("packs", KINDS.values(), ids=KINDS)
def test_the_same_artifact_comes_of_it(
    tmp_path: Path, store: HeaderStore, guest: Guest, packs: list[Pack], threads: int
) -> None:
    digests = set()
    for name, kinds, count in (("plain", PLAIN, 1), ("packed", packs, threads)):
        with opened(tmp_path / name, TARS, kinds) as image:
            # two stores: what is known of a layer would not be read again
            seen = reuse_headers(image, store) if name == "packed" else image
            root = flatten(seen, verify=False, threads=count)
            if name == "packed":
                verified = [each.is_sound for each in seen.layers]
                assert verified == [each.compressed for each in image.layers]
            out = tmp_path / f"{name}.smolmachine"
            digests.add(pack_native(seen, root, guest, out, flatten_version=FLATTEN_VERSION).digest)
    assert len(digests) == 1


def test_headers_that_are_there_spare_the_reading(tmp_path: Path, store: HeaderStore) -> None:
    with opened(tmp_path / "first", TARS, KINDS["gzip"]) as image:
        first = listed(flatten(reuse_headers(image, store), verify=False, threads=2))
    store.publish()
    with opened(tmp_path / "second", TARS, KINDS["gzip"]) as image:
        for blob in (tmp_path / "second" / "blobs" / "sha256").iterdir():
            os.truncate(blob, 0)
        seen = reuse_headers(image, store)
        assert listed(flatten(seen, verify=False, threads=2)) == first
        assert not any(each.is_sound for each in seen.layers)


def test_what_may_change_is_verified_when_its_data_is_read(tmp_path: Path, store: HeaderStore) -> None:
    with opened(tmp_path / "image", TARS, KINDS["gzip"], immutable=False) as image:
        seen = reuse_headers(image, store)
        root = flatten(seen, verify=False, threads=2)
        assert not any(each.is_sound for each in seen.layers)
        blob = tmp_path / "image" / "blobs" / "sha256" / str(image.layers[1].digest).partition(":")[2]
        blob.write_bytes(gzipped(TARS[1].replace(b"new", b"old"))[0])
        with pytest.raises(ImageError, match=str(image.layers[1].diff_id)):
            b"".join(root.chunks())


def test_every_rule_holds_in_threads(tmp_path: Path, store: HeaderStore) -> None:
    members, _ = together(ALONE)
    tars = [layer(each) for each in members]
    with opened(tmp_path / "image", tars, [gzipped] * len(tars)) as image:
        alone = flatten(image, verify=False)
        beside = flatten(reuse_headers(image, store), verify=False, threads=4)
        assert listed(alone) == listed(beside)
        assert b"".join(alone.chunks()) == b"".join(beside.chunks())


def changed(image: Image, number: int, **digests: Digest) -> Image:
    layers = list(image.layers)
    layers[number] = replace(layers[number], **digests)  # type: ignore[arg-type]
    return replace(image, layers=tuple(layers))


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("what", ["diff_id", "digest"])
def test_a_layer_that_is_not_what_its_digests_say_is_an_error(
    tmp_path: Path, store: HeaderStore, number: int, what: str
) -> None:
    threads = threading.active_count()
    with opened(tmp_path / "image", TARS, KINDS["mixed"]) as image:
        wrong = changed(image, number, **{what: Digest.of(b"another")})
        seen = reuse_headers(wrong, store)
        with pytest.raises(ImageError, match="damaged"):
            b"".join(flatten(seen, verify=False, threads=2).chunks())
        assert not seen.layers[number].is_sound
    assert threading.active_count() == threads


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_too_much_ends_all_reading(tmp_path: Path, store: HeaderStore, threads: int) -> None:
    running, told = threading.active_count(), 0

    def count(size: int) -> None:
        nonlocal told
        told += size
        if told > 1_000_000:
            raise ImageError("too much")

    tars = [layer([file(f"f{number}", bytes(50_000_000))]) for number in range(4)]
    with (
        opened(tmp_path / "image", tars, [gzipped] * 4) as image,
        pytest.raises(ImageError, match="too much"),
    ):
        flatten(reuse_headers(image, store), verify=False, threads=threads, on_bytes=count)
    assert threading.active_count() == running
    assert told < 40_000_000
    store.publish()
    assert not [path for path in store.folder.iterdir() if path.name != "lock"]


@pytest.mark.parametrize("harm", [lambda data: data[:-9], lambda data: data[:3000], lambda data: data + b"x"])
def test_a_layer_that_is_cut_or_goes_on_is_an_error(
    tmp_path: Path, store: HeaderStore, harm: Callable[[bytes], bytes]
) -> None:
    packs: list[Pack] = [gzipped, lambda tar: (harm(gzipped(tar)[0]), "tar+gzip"), gzipped, gzipped]
    with (
        opened(tmp_path / "image", TARS, packs) as image,
        pytest.raises(ImageError, match=str(image.layers[1].diff_id)),
    ):
        flatten(reuse_headers(image, store), verify=False, threads=2)
