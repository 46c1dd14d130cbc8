"""Images in containerd's content store: read whole and verified, or refused with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.corpus.crafted import Layout, gzipped, plain, zstd
from tests.support.crafted import config, file, layer
from tests.support.fake_engines import Fake, engine, fails, says

from bot_bottle.engine.content_store import content_store_image
from bot_bottle.engine.storage import stored_image
from bot_bottle.errors import ImageError
from bot_bottle.image.archive import Image
from bot_bottle.image.spec import Digest, Platform

HERE = Platform.of_this_machine().architecture
OTHER = "arm64" if HERE == "amd64" else "amd64"
LAYERS = [layer([file("a", b"a" * 5000)]), layer([file("b", os.urandom(300_000))]), layer([])]
Descriptor = dict[str, Any]
STORE = "io.containerd.content.v1.content"


class Store:
    """An engine with containerd's image store, whose blobs are in a folder of this test."""

    def __init__(self, root: Path, fake: Fake) -> None:
        self.root = root
        self._fake = fake
        self.layout = Layout(root / "containerd" / "daemon" / STORE)
        self.answer(DockerRootDir=str(root))

    def answer(self, **info: Any) -> None:
        """Have `docker info` say this."""
        status = [["driver-type", "io.containerd.snapshotter.v1"]]
        told = {"Driver": "overlayfs", "DriverStatus": status, **info}
        self.engine = engine(self._fake("docker", says(json.dumps(told))))

    def image(self, architecture: str = HERE, **facts: Any) -> Descriptor:
        """Write an image of three layers, one in each form that they are kept in."""
        platform = {"os": "linux", "architecture": architecture}
        return self.layout.image(LAYERS, [gzipped, zstd, plain], architecture, platform=platform, **facts)

    def path(self, digest: object) -> Path:
        return self.layout.folder / "blobs" / str(digest).replace(":", "/")

    def manifest(self, descriptor: Descriptor) -> Descriptor:
        manifest: Descriptor = json.loads(self.path(descriptor["digest"]).read_bytes())
        return manifest

    def rewritten(self, descriptor: Descriptor, change: Callable[[Descriptor], object]) -> Descriptor:
        """Write a changed manifest, under the digest that it has then."""
        manifest = self.manifest(descriptor)
        change(manifest)
        return self.layout.blob(json.dumps(manifest).encode(), manifest["mediaType"])

    @contextmanager
    def opened(self, descriptor: Descriptor) -> Iterator[Image | None]:
        with stored_image(self.engine, descriptor["digest"]) as image:
            yield image


@pytest.fixture
def store(fake: Fake, tmp_path: Path) -> Store:
    return Store(tmp_path / "root", fake)


def read(image: Image | None) -> list[bytes]:
    assert image is not None
    data = []
    for each in image.layers:
        with each.open() as stream:
            data.append(stream.read())
    return data


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def attestation(store: Store) -> Descriptor:
    """What BuildKit writes beside an image."""
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    manifest = {
        "schemaVersion": 2,
        "config": store.layout.blob(
            config([statement], "unknown"), "application/vnd.oci.image.config.v1+json"
        ),
        "layers": [store.layout.blob(statement, "application/vnd.in-toto+json")],
    }
    return store.layout.blob(
        json.dumps(manifest).encode(),
        "application/vnd.oci.image.manifest.v1+json",
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )


def test_layers_are_read_whatever_their_compression(store: Store) -> None:
    described = store.image()
    before = descriptors()
    with store.opened(described) as image:
        assert read(image) == LAYERS
    assert descriptors() == before


def test_every_digest_on_the_way_identifies_the_image(store: Store) -> None:
    mine = store.image()
    inner = store.layout.index([attestation(store), mine])
    outer = store.layout.index([store.image(OTHER), inner])
    own = store.manifest(mine)["config"]["digest"]
    digests = {Digest(each["digest"]) for each in (mine, inner, outer)}
    with store.opened(outer) as image:
        assert image is not None
        assert str(image.image_id) == own
        assert image.digests == digests | {Digest(own)}
        assert read(image) == LAYERS


def test_platforms_that_were_never_pulled_do_not_matter(store: Store) -> None:
    other, mine = store.image(OTHER), store.image()
    index = store.layout.index([other, mine])
    store.path(other["digest"]).unlink()
    with store.opened(index) as image:
        assert read(image) == LAYERS


def test_an_image_for_another_platform_is_refused(store: Store) -> None:
    index = store.layout.index([store.image(OTHER)])
    with pytest.raises(ImageError, match=f"no image for linux/{HERE}") as caught, store.opened(index):
        raise AssertionError("it was opened")
    assert OTHER in caught.value.why


def test_an_image_that_is_in_no_store_is_not_read(store: Store) -> None:
    with store.opened({"digest": str(Digest.of(b"nowhere"))}) as image:
        assert image is None


@pytest.mark.parametrize("address", ["", None, 5, "relative.sock", "/nowhere.sock", {"a": 1}])
def test_a_store_that_is_nowhere_is_not_read(store: Store, tmp_path: Path, address: object) -> None:
    described = store.image()
    store.answer(DockerRootDir=str(tmp_path / "elsewhere"), Containerd={"Address": address})
    with store.opened(described) as image:
        assert image is None


def test_containerd_is_asked_where_its_store_is(store: Store, fake: Fake, tmp_path: Path) -> None:
    described = store.image()
    store.answer(DockerRootDir=str(tmp_path / "elsewhere"), Containerd={"Address": "/run/c.sock"})
    listed = f"Type: io.containerd.content.v1\nID: content\nExports:\n     root {store.layout.folder}"
    fake("ctr", f'[ "$1" = --address=/run/c.sock ] || exit 1\n{says(listed)}')
    with store.opened(described) as image:
        assert read(image) == LAYERS


def test_a_containerd_that_fails_is_passed_over(store: Store, fake: Fake, tmp_path: Path) -> None:
    described = store.image()
    store.answer(DockerRootDir=str(tmp_path / "elsewhere"), Containerd={"Address": "/run/c.sock"})
    fake("ctr", fails("ctr: failed to dial"))
    with store.opened(described) as image:
        assert image is None


# --- damage


def test_a_layer_that_is_collected_while_it_is_open_is_read_whole(store: Store) -> None:
    described = store.image()
    with store.opened(described) as image:
        for each in store.manifest(described)["layers"]:
            store.path(each["digest"]).unlink()
        assert read(image) == LAYERS


@pytest.mark.parametrize("number", range(3))
def test_a_layer_that_is_missing_is_an_error(store: Store, number: int) -> None:
    described = store.image()
    digest = store.manifest(described)["layers"][number]["digest"]
    store.path(digest).unlink()
    with pytest.raises(ImageError, match="lacks layer") as caught, store.opened(described):
        raise AssertionError("it was opened")
    assert digest in caught.value.message


def test_a_config_that_is_missing_is_an_error(store: Store) -> None:
    described = store.image()
    store.path(store.manifest(described)["config"]["digest"]).unlink()
    with pytest.raises(ImageError, match="lacks the image config"), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("number", range(3))
def test_a_layer_with_a_changed_byte_is_an_error(store: Store, number: int) -> None:
    described = store.image()
    path = store.path(store.manifest(described)["layers"][number]["digest"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with store.opened(described) as image, pytest.raises(ImageError):
        read(image)


@pytest.mark.parametrize("number", range(3))
def test_a_layer_that_is_cut_short_is_an_error(store: Store, number: int) -> None:
    described = store.image()
    path = store.path(store.manifest(described)["layers"][number]["digest"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="damaged"), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_changed_document_is_an_error(store: Store, part: str) -> None:
    described = store.image()
    digest = described["digest"] if part == "manifest" else store.manifest(described)["config"]["digest"]
    path = store.path(digest)
    path.write_bytes(path.read_bytes().replace(b"layers", b"Layers"))
    with pytest.raises(ImageError, match="damaged"), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("part", ["config", "layers"])
def test_a_link_that_leads_out_of_the_store_is_refused(store: Store, tmp_path: Path, part: str) -> None:
    described = store.image()
    manifest = store.manifest(described)
    path = store.path((manifest["config"] if part == "config" else manifest["layers"][0])["digest"])
    path.rename(tmp_path / "elsewhere.blob")
    path.symlink_to(tmp_path / "elsewhere.blob")
    with pytest.raises(ImageError, match="outside"), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_file_is_no_blob(store: Store, kind: str) -> None:
    described = store.image()
    path = store.path(store.manifest(described)["layers"][0]["digest"])
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ImageError), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("size", [-1, 0, 1, 1 << 62, "12", [], 1e308])
@pytest.mark.parametrize("part", ["config", "layers"])
def test_a_size_that_is_not_the_blobs_is_an_error(store: Store, part: str, size: object) -> None:
    def lie(manifest: Descriptor) -> None:
        (manifest["config"] if part == "config" else manifest["layers"][0])["size"] = size

    described = store.rewritten(store.image(), lie)
    with pytest.raises(ImageError, match="damaged"), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_a_document_of_a_gigabyte_is_not_read(store: Store, part: str) -> None:
    described = store.image()
    digest = described["digest"] if part == "manifest" else store.manifest(described)["config"]["digest"]
    with store.path(digest).open("r+b") as blob:
        blob.truncate(1 << 30)
    with pytest.raises(ImageError), store.opened(described):
        raise AssertionError("it was opened")


@pytest.mark.parametrize(
    "digest", ["sha256:../../../etc/passwd", "md5:00", "", None, 7, "sha256:" + "A" * 64]
)
def test_a_digest_that_is_none_is_an_error(store: Store, digest: object) -> None:
    described = store.rewritten(store.image(), lambda m: m["layers"][0].update(digest=digest))
    with pytest.raises(ImageError), store.opened(described):
        raise AssertionError("it was opened")


def test_indexes_without_end_are_refused(store: Store) -> None:
    described = store.image()
    for _ in range(10):
        described = store.layout.index([described])
    with pytest.raises(ImageError, match="too deeply"), store.opened(described):
        raise AssertionError("it was opened")


def test_a_store_that_is_not_for_this_user_to_read_is_passed_over(store: Store) -> None:
    described = store.image()
    store.root.chmod(0o700)
    info = store.engine.info()
    os.seteuid(12345)
    try:
        with content_store_image(info, Digest(described["digest"])) as image:
            assert image is None
    finally:
        os.seteuid(0)
    with content_store_image(info, Digest(described["digest"])) as image:
        assert read(image) == LAYERS
