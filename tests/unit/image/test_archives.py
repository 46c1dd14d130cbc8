"""Archives as `docker load` takes them, and as the tools that make images write them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.corpus.crafted import Layout, plain
from tests.support.crafted import config, digest, file, files_tar, layer, saved

from bot_bottle.engine.source import STANDARD_INPUT, Source
from bot_bottle.errors import ImageError
from bot_bottle.host import paths
from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Platform

AMD64 = Platform("linux", "amd64")


def xz_streams(data: bytes) -> bytes:
    """As `xz` and `pixz` write several streams, with padding between them."""
    half = len(data) // 2
    return lzma.compress(data[:half]) + bytes(8) + lzma.compress(data[half:])


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip, two members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "bzip2": bz2.compress,
    "bzip2, two streams": lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:]),
    "xz": lzma.compress,
    "xz, two streams": xz_streams,
    "zstd": zstandard.compress,
    "zstd, two frames": lambda data: zstandard.compress(data[:700]) + zstandard.compress(data[700:]),
    "zstd, a skippable frame first": lambda data: (
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstandard.compress(data)
    ),
}


def content(path: Path, name: str | None = None) -> str:
    """Give the content of the file in the only layer of an archive's image."""
    with open_archive(path, name=name, platform=AMD64) as image, image.layers[0].open() as stream:
        return stream.read()[512:].partition(b"\0")[0].decode()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "archive"
        path.write_bytes(data)
        return path

    return write


Write = Callable[[bytes], Path]


@pytest.mark.parametrize("pack", PACKS)
def test_a_compressed_archive_is_read_whatever_its_name(write: Write, pack: str) -> None:
    assert content(write(PACKS[pack](saved(layer([file("which", b"ours")]))))) == "ours"


@pytest.mark.parametrize("pack", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_compressed_archive_is_refused(write: Write, pack: str, harm: str) -> None:
    data = bytearray(PACKS[pack](saved(layer([file("which", os.urandom(5000))]))))
    if harm == "cut":
        del data[-len(data) // 3 :]
    else:
        data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError) as caught:
        content(write(bytes(data)))
    assert caught.value.next_step


@pytest.mark.parametrize("pack", ["gzip", "bzip2", "xz", "zstd"])
def test_what_an_archive_decompresses_to_is_bounded(write: Write, pack: str) -> None:
    """300 MB of zeros, in a few kB: no more than the limit is written, and nothing stays."""
    bomb = write(PACKS[pack](bytes(3_000_000)) * 100)
    assert bomb.stat().st_size < 400_000
    with (
        pytest.raises(ImageError, match="larger than allowed") as caught,
        open_archive(bomb, limit=1_000_000),
    ):
        pass
    assert "--max-image-size" in caught.value.next_step
    assert not list(paths.runs_dir().iterdir())


def test_an_xz_archive_that_wants_too_much_memory_is_refused(write: Write) -> None:
    stream = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    whole = bytearray(stream.compress(saved(layer([file("which")]))) + stream.flush())
    # the dictionary's size is one byte in the header of the first block (.xz format, 3.1 and 5.3.1)
    whole[whole.index(b"\x21\x01", 12) + 2] = 36  # 1 GiB
    end = 12 + (whole[12] + 1) * 4
    whole[end - 4 : end] = zlib.crc32(whole[12 : end - 4]).to_bytes(4, "little")
    with pytest.raises(ImageError, match="cannot be decompressed") as caught:
        content(write(bytes(whole)))
    assert "emory" in caught.value.why


def tar(*members: tuple[str, bytes | str]) -> bytes:
    """Make a tar of files, and of symbolic links where the content is text."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def manifest(*entries: tuple[str, list[str] | None, list[str]]) -> tuple[str, bytes]:
    facts = [{"Config": name, "RepoTags": tags, "Layers": layers} for name, tags, layers in entries]
    return "manifest.json", json.dumps(facts).encode()


LAYER = layer([file("which", b"ours")])
OTHER = layer([file("which", b"other")])
HEX = hashlib.sha256(LAYER).hexdigest()
CONFIG = config([LAYER])
ID = digest(CONFIG)
ONE, TWO = "1" * 64, "2" * 64


def test_equal_layers_are_one_file_and_a_link_in_old_dockers_archives(write: Write) -> None:
    both = config([LAYER, LAYER])
    name = f"{digest(both)[7:]}.json"
    members: list[tuple[str, bytes | str]] = [
        (f"{ONE}/layer.tar", f"../{TWO}/layer.tar"),  # the link may come first
        (f"{TWO}/layer.tar", LAYER),
        (name, both),
        manifest((name, ["a:1"], [f"{TWO}/layer.tar", f"{ONE}/layer.tar"])),
    ]
    with open_archive(write(tar(*members)), platform=AMD64) as image:
        assert [each.blob for each in image.layers] == [image.layers[0].blob] * 2


FORMS: dict[str, bytes] = {
    "docker save": saved(LAYER),
    "ggcr: crane, ko, kaniko, bazel": tar(
        (ID, CONFIG),
        (f"{HEX}.tar.gz", gzip.compress(LAYER)),
        manifest((ID, ["ko.local/app:x"], [f"{HEX}.tar.gz"])),
    ),
    "jib": tar(
        (f"{HEX}.tar.gz", gzip.compress(LAYER)),
        ("config.json", CONFIG),
        manifest(("config.json", ["app:latest"], [f"{HEX}.tar.gz"])),
    ),
    "nix dockerTools": gzip.compress(
        tar(
            (f"./{ONE}/VERSION", b"1.0"),
            (f"./{ONE}/json", b"{}"),
            (f"./{ONE}/layer.tar", LAYER),
            (f"./{ID[7:]}.json", CONFIG),
            ("./repositories", b'{"app": {"x": "1"}}'),
            ("./manifest.json", manifest((f"{ID[7:]}.json", ["app:x"], [f"{ONE}/layer.tar"]))[1]),
        )
    ),
    "skopeo docker-archive, podman save": tar(
        (f"{HEX}.tar", LAYER),
        (f"{ONE}/layer.tar", f"../{HEX}.tar"),
        (f"{ONE}/VERSION", b"1.0"),
        (f"{ONE}/json", b"{}"),
        (f"{ID[7:]}.json", CONFIG),
        manifest((f"{ID[7:]}.json", None, [f"{HEX}.tar"])),
        ("repositories", b"{}"),
    ),
    "buildpacks": tar(
        (f"{ID[7:]}.json", CONFIG),
        (f"/{HEX}.tar".lstrip("/"), LAYER),
        (
            "manifest.json",
            json.dumps(
                [{"Config": f"{ID[7:]}.json", "RepoTags": ["app"], "Layers": [f"{HEX}.tar"], "Parent": ""}]
            ).encode(),
        ),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_archives_of_other_tools_are_read(write: Write, form: str) -> None:
    assert content(write(FORMS[form])) == "ours"


def test_an_image_for_several_platforms_in_a_docker_archive(write: Write) -> None:
    """As ko and apko write them: an entry for each platform, all of one name."""
    arm = config([OTHER], "arm64")
    members = [
        (digest(arm), arm),
        (ID, CONFIG),
        ("other.tar", OTHER),
        ("ours.tar", LAYER),
        manifest((digest(arm), ["app:x"], ["other.tar"]), (ID, ["app:x"], ["ours.tar"])),
    ]
    assert content(write(tar(*members))) == "ours"
    assert content(write(tar(*members)), "app:x") == "ours"


SECOND = config([OTHER])


def several(names: tuple[list[str] | None, list[str] | None]) -> bytes:
    """As `docker save A B` and `podman save -m` write."""
    return tar(
        (f"{ID[7:]}.json", CONFIG),
        (f"{digest(SECOND)[7:]}.json", SECOND),
        ("ours.tar", LAYER),
        ("other.tar", OTHER),
        manifest(
            (f"{ID[7:]}.json", names[0], ["ours.tar"]),
            (f"{digest(SECOND)[7:]}.json", names[1], ["other.tar"]),
        ),
    )


@pytest.mark.parametrize(
    "name",
    ["app", "app:latest", "docker.io/library/app", "docker.io/library/app:latest", "second:1", ID, ID[7:19]],
)
def test_one_of_several_images_is_chosen_by_name_or_digest(write: Write, name: str) -> None:
    path = write(several((["app:latest", "second:1"], ["localhost/other:2"])))
    assert content(path, name) == "ours"
    for other in ("other:2", "localhost/other:2", digest(SECOND)):
        assert content(path, other) == "other"


def test_the_choice_among_several_images_is_in_the_message(write: Write) -> None:
    path = write(several((["app:latest"], None)))
    with pytest.raises(ImageError, match="has 2 images") as caught:
        content(path)
    assert f"{ID} app:latest\n{digest(SECOND)}" in caught.value.why
    assert caught.value.next_step.endswith(f"{path}:app:latest")
    for name in ("nothing", "app:1", "sha256:" + "0" * 64, digest(SECOND)[7:12]):
        with pytest.raises(ImageError, match="has no image named") as caught:
            content(path, name)
        assert "app:latest" in caught.value.why


def test_one_of_several_images_of_a_layout_is_chosen(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")

    def image(data: bytes, **annotations: str) -> dict[str, Any]:
        return {**layout.image([data], [plain]), "annotations": annotations}

    index = layout.index([image(LAYER)])
    folder = layout.finish(
        {**index, "annotations": {"io.containerd.image.name": "docker.io/library/app:1"}},
        image(OTHER, **{"org.opencontainers.image.ref.name": "other"}),
    )
    for name in ("app:1", index["digest"], index["digest"][7:20]):
        assert content(folder, name) == "ours"
    assert content(folder, "other") == "other"
    with pytest.raises(ImageError, match="several images") as caught:
        content(folder)
    assert ":docker.io/library/app:1" in caught.value.next_step
    with pytest.raises(ImageError, match="has no image named nothing"):
        content(folder, "nothing")


@pytest.mark.parametrize(
    ("files", "message", "step"),
    [
        ({"etc/passwd": b"", "bin/sh": b""}, "is a root filesystem", "docker import"),
        ({"repositories": b"{}", f"{ONE}/layer.tar": b""}, "docker 1.9 or older", "save it again"),
        ({"readme": b""}, "is not an image archive", "docker save"),
    ],
)
def test_what_is_no_image_archive_is_explained(
    write: Write, files: dict[str, bytes], message: str, step: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        content(write(files_tar(files)))
    assert step in caught.value.next_step


def test_a_name_is_split_from_an_archives_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.tar", "b:1.tar", "c@d"):
        Path(name).touch()
    Path("folder").mkdir()
    cases: tuple[tuple[str, str, str | None], ...] = (
        ("a.tar", "a.tar", None),
        ("a.tar:app:1", "a.tar", "app:1"),
        ("a.tar@sha256:12", "a.tar", "sha256:12"),
        ("b:1.tar", "b:1.tar", None),
        ("b:1.tar:host:5000/x", "b:1.tar", "host:5000/x"),
        ("c@d", "c@d", None),
        ("-", "-", None),
        ("-:app", "-", "app"),
        ("folder:1", "folder:1", None),
        ("nothing:1", "nothing:1", None),
    )
    for text, path, chosen in cases:
        assert Source.of_archive(text) == Source(archive=Path(path), archive_name=chosen), text
    assert Source.of_archive("-").archive == STANDARD_INPUT
