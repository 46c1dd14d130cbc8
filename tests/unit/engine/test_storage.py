"""Images read where their engine keeps them: as they are, or not at all."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.crafted import file, folder, hardlink, layer, saved, symlink, xattrs
from tests.support.engine_storage import docker_storage, podman_storage, write_recipe
from tests.support.fake_engines import Fake, engine, fails, says

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.storage import stored_image
from bot_bottle.engine.tar_split import SplitTar
from bot_bottle.errors import ImageError
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.rootfs.flatten import flatten

LAYERS = [
    layer(
        [
            folder("d"),
            file("d/a", b"a" * 700),
            file("./d/e/f/deep", os.urandom(3_000_000)),
            file("empty", b""),
            hardlink("h", "d/a"),
            symlink("l", "/etc"),
            file("\udcff\udcfe", b"bytes"),
            file("x", b"x" * 512, pax_headers=xattrs(user__k="v")),
            file("long/" * 30 + "name", b"n"),
        ]
    ),
    layer([file("d/.wh.a", b""), file("d/b", b"b")]) + bytes(9000),
    layer([]),
]

Storage = Callable[..., tuple[str, str]]
Harm = Callable[[Path], object]
KINDS = [("docker", docker_storage), ("podman", podman_storage)]


def found(fake: Fake, name: str, storage: Storage, root: Path) -> tuple[Engine, str]:
    root.mkdir()
    image_id, info = storage(root, *LAYERS)
    return engine(fake(name, says(info)), name), image_id  # type: ignore[arg-type]


def stored(there: Engine, image_id: str) -> Image | None:
    with stored_image(there, image_id) as image:
        return image


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def whole(image: Image, *, verify: bool = True) -> bytes:
    return b"".join(flatten(image, verify=verify).chunks())


@pytest.mark.parametrize(("name", "storage"), KINDS)
def test_an_image_is_what_an_archive_of_it_is(
    fake: Fake, tmp_path: Path, name: str, storage: Storage
) -> None:
    there, image_id = found(fake, name, storage, tmp_path / "root")
    image = stored(there, image_id)
    assert image is not None
    assert str(image.image_id) == image_id
    (tmp_path / "image.tar").write_bytes(saved(*LAYERS))
    before = descriptors()
    with open_archive(tmp_path / "image.tar") as other:
        assert whole(image) == whole(other)
    assert descriptors() == before
    for number, (ours, wanted) in enumerate(zip(image.layers, LAYERS, strict=True)):
        with ours.open() as stream:
            assert stream.read() == wanted, number
        with ours.open(verify=False) as stream:
            assert stream.skip(1000) + stream.skip(len(wanted)) == len(wanted)


def remove(pattern: str) -> Harm:
    def harm(root: Path) -> None:
        for path in root.rglob(pattern):
            path.unlink()

    return harm


DOCKER_HARMS: list[Harm] = [
    lambda root: shutil.rmtree(root),
    remove("cache-id"),
    lambda root: [path.write_text("../../../etc") for path in root.rglob("cache-id")],
    lambda root: [path.write_bytes(b"\xff") for path in root.rglob("cache-id")],
    remove("tar-split*"),
    lambda root: shutil.rmtree(root / "overlay2"),
    lambda root: [
        path.write_text("{}") for path in (root / "image/overlay2/imagedb").rglob("*") if path.is_file()
    ],
]
PODMAN_HARMS: list[Harm] = [
    lambda root: (root / "overlay-images/images.json").write_text("[]"),
    lambda root: (root / "overlay-images/images.json").write_text("[" * 100_000),
    lambda root: (root / "overlay-layers/layers.json").write_text("[]"),
    lambda root: (root / "overlay-layers/layers.json").write_text('[{"id": 1}]'),
    lambda root: (root / "overlay-layers/layers.json").unlink(),
]


@pytest.mark.parametrize(
    ("name", "storage", "harm"),
    [
        *(("docker", docker_storage, harm) for harm in DOCKER_HARMS),
        *(("podman", podman_storage, harm) for harm in PODMAN_HARMS),
    ],
)
def test_an_image_that_the_engine_does_not_keep_whole_is_not_found(
    fake: Fake, tmp_path: Path, name: str, storage: Storage, harm: Harm
) -> None:
    there, image_id = found(fake, name, storage, tmp_path / "root")
    harm(tmp_path / "root")
    assert stored(there, image_id) is None


@pytest.mark.parametrize(
    "body",
    [
        fails("no right to do that"),
        says("not json"),
        says("[]"),
        says("{}"),
        says('{"Driver": "btrfs", "DockerRootDir": "/"}'),
        says('{"Driver": "overlay2", "DockerRootDir": 7}'),
        says('{"Driver": "overlay2", "DockerRootDir": "/nowhere"}'),
    ],
)
def test_an_answer_without_a_storage_finds_no_image(fake: Fake, body: str) -> None:
    assert stored(engine(fake("docker", body)), f"sha256:{'1' * 64}") is None


def test_an_image_of_another_name_is_not_taken(fake: Fake, tmp_path: Path) -> None:
    there, _ = found(fake, "docker", docker_storage, tmp_path / "root")
    assert stored(there, f"sha256:{'1' * 64}") is None
    assert stored(there, "latest") is None


NO_DEFLATE = gzip.compress(b"")[:10] + b"\xff" * 40
DEEP = "overlay2/cache0/diff/d/e/f/deep"


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    """Put a link to the very same folder in a folder's place: it is not followed all the same."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda root: changed(root / DEEP),
        lambda root: os.truncate(root / DEEP, 2_000_000),
        lambda root: (root / DEEP).unlink(),
        lambda root: linked((root / DEEP).parent),
        lambda root: linked(root / DEEP),
        lambda root: replaced(root / DEEP, os.mkfifo),
        lambda root: replaced(root / DEEP, os.mkdir),
        lambda root: [path.write_bytes(path.read_bytes()[:-40]) for path in root.rglob("tar-split*")],
        lambda root: [path.write_bytes(b"plain") for path in root.rglob("tar-split*")],
        lambda root: [path.write_bytes(NO_DEFLATE) for path in root.rglob("tar-split*")],
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_what_has_changed_is_noticed(
    fake: Fake, tmp_path: Path, harm: Callable[[Path], object], verify: bool
) -> None:
    there, image_id = found(fake, "docker", docker_storage, tmp_path / "root")
    image = stored(there, image_id)
    assert image is not None
    harm(tmp_path / "root")
    before = descriptors()
    with pytest.raises(ImageError, match="layer sha256"):
        whole(image, verify=verify)
    assert descriptors() == before


@pytest.mark.parametrize(
    "entry",
    [
        {"type": 1, "name": "../outside", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "a/../../outside", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "..", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "out/outside", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "way", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "a\0b", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name_raw": "?", "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "file", "size": -4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "file", "size": 1 << 70, "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": "file", "size": "many", "payload": "AAAAAAAAAAA="},
        {"type": 1, "name": ["file"], "size": 4, "payload": "AAAAAAAAAAA="},
        {"type": 1, "payload": "AAAAAAAAAAA="},
        {"type": 2, "payload": "not base64"},
        {"type": 2, "payload": 7},
        {"type": 3, "payload": "AAAA"},
        {"payload": "AAAA"},
        [],
        7,
        None,
    ],
    ids=json.dumps,
)
def test_a_recipe_leads_nowhere_else(tmp_path: Path, entry: object) -> None:
    (tmp_path / "outside").write_text("host")
    layer_folder = tmp_path / "layer"
    (layer_folder / "a").mkdir(parents=True)
    (layer_folder / "file").write_text("file")
    (layer_folder / "out").symlink_to(tmp_path)
    (layer_folder / "way").symlink_to(tmp_path / "outside")
    write_recipe(tmp_path / "recipe", [entry])  # type: ignore[list-item]
    tar = SplitTar(tmp_path / "recipe", layer_folder)
    try:
        with pytest.raises((OSError, EOFError)):
            while tar.read(100):
                pass
    finally:
        tar.close()
