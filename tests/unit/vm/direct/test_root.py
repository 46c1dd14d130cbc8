"""An artifact's root image: what is in it, and which artifacts are refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.support.crafted import Member, device, fifo, file, folder, hardlink, layer, symlink, xattrs
from tests.support.erofs import check, listed, mounted
from tests.support.layer_cases import CASES, Brief, together

from bot_bottle.erofs.reader import read_file
from bot_bottle.errors import ArtifactError
from bot_bottle.host.progress import Progress
from bot_bottle.smolmachine.manifest import Asset, Assets, LayerAsset, Manifest
from bot_bottle.smolmachine.writer import Writer
from bot_bottle.vm.direct.root import write_root_image


def artifact_of(path: Path, *layers: bytes) -> Path:
    """An artifact with these layers."""
    names = [f"layers/{number}.tar" for number in range(len(layers))]
    assets = Assets(
        Asset("agent-rootfs.tar", 4),
        tuple(LayerAsset("sha256:1", name, len(data)) for name, data in zip(names, layers, strict=True)),
    )
    with path.open("wb") as file, Writer(file) as writer:
        for name, data in [("agent-rootfs.tar", b"none"), *zip(names, layers, strict=True)]:
            writer.begin(name, len(data))
            writer.add(data)
        writer.finish(Manifest("i", "sha256:1", "linux/amd64", 1, 256, assets))
    return path


def image_of(folder: Path, members: list[Member]) -> Path:
    image = folder / "root.erofs"
    write_root_image(artifact_of(folder / "a.smolmachine", layer(members)), image, Progress())
    check(image)
    return image


def test_an_artifact_of_ours_becomes_an_image(tmp_path: Path, artifact: Path) -> None:
    stream = io.StringIO()
    write_root_image(artifact, tmp_path / "i", Progress("plain", stream))
    check(tmp_path / "i")
    assert read_file(tmp_path / "i", b"etc/hello", 100) == b"hello\n"
    assert stream.getvalue().startswith("root ")
    assert "3 files" in stream.getvalue()


@pytest.mark.root
def test_what_smolvm_leaves_out_is_left_out(tmp_path: Path) -> None:
    members = [
        folder("d", 0o1777, uid=1000, gid=1001),
        file("d/f", b"data", 0o4755, uid=7, pax_headers=xattrs(user__a="b")),
        hardlink("d/g", "d/f"), symlink("d/s", "f", uid=5, gid=5), device("d/null", 1, 3), fifo("d/p"),
        file("d/t", pax_headers={"mtime": "1700000000.5"}),
    ]  # fmt: skip
    with mounted(image_of(tmp_path, members), tmp_path / "mounted") as root:
        seen = listed(root)
    assert seen.keys() == {".", "d", "d/f", "d/g", "d/s", "d/t"}
    assert seen["d/f"]["xattrs"] == {}
    assert (seen["d/f"]["mode"], seen["d/f"]["owner"], seen["d/f"]["names"]) == ("-rwsr-xr-x", (7, 0), 2)
    assert seen["d/s"]["owner"] == (0, 0)
    assert seen["d/t"]["mtime"] == 1_700_000_000 * 10**9
    assert (seen["d"]["mode"], seen["d"]["owner"]) == ("drwxrwxrwt", (1000, 1001))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (layer([file("../x")]), "cannot be stored"),
        (layer([hardlink("a", "b")]), "cannot be stored"),
        (layer([file("f", b"x" * 5000)])[:3000], "cut short"),
        (b"not a tar" * 100, "damaged"),
    ],
)
def test_hostile_layers_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ArtifactError, match=why):
        write_root_image(artifact_of(tmp_path / "a.smolmachine", data), tmp_path / "i", Progress())


def test_an_artifact_without_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no layers"):
        write_root_image(artifact_of(tmp_path / "a.smolmachine"), tmp_path / "i", Progress())


def kept(shows: Brief) -> Brief:
    """What a root image has of a tree: no devices, no FIFOs, and no other names of theirs."""
    special = ("char", "block", "fifo")
    gone = {name for name, value in shows.items() if isinstance(value, str) and value.startswith(special)}
    gone |= {name for name, value in shows.items() if value in {f"= {each}" for each in gone}}
    return {name: value for name, value in shows.items() if name not in gone}


def seen_in(root: Path) -> Brief:
    """A mounted image in the words of `layer_cases`."""
    found: Brief = {}
    for name, facts in listed(root).items():
        if name == ".":
            continue
        if facts["first"] != name:
            found[name] = f"= {facts['first']}"
        else:
            content = facts["content"]
            found[name] = "/" if content is None else f"-> {content}" if isinstance(content, str) else content
    return found


@pytest.mark.root
def test_several_layers_are_merged_as_engines_show_them(tmp_path: Path) -> None:
    """Whiteouts, opaque folders, links to lower layers, and all else that layers do to each other."""
    layers, shows = together({name: case for name, case in CASES.items() if not case.alone})
    image = tmp_path / "root.erofs"
    write_root_image(artifact_of(tmp_path / "a.smolmachine", *map(layer, layers)), image, Progress())
    check(image)
    with mounted(image, tmp_path / "mounted") as root:
        assert seen_in(root) == kept(shows)
    assert not [
        path for path in tmp_path.iterdir() if path.name not in ("a.smolmachine", image.name, "mounted")
    ]


def test_layers_are_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    """In the file they may have another, and one that the manifest does not name is none."""
    stored = {"one": layer([file("f", b"1"), file("g", b"1")]), "two": layer([file("f", b"2")]), "x": b"none"}
    made = tmp_path / "a.smolmachine"
    named = tuple(LayerAsset("sha256:1", name, len(stored[name])) for name in ("two", "one"))
    with made.open("wb") as target, Writer(target) as writer:
        for name, data in [("agent-rootfs.tar", b"none"), *stored.items()]:
            writer.begin(name, len(data))
            writer.add(data)
        assets = Assets(Asset("agent-rootfs.tar", 4), named)
        writer.finish(Manifest("i", "sha256:1", "linux/amd64", 1, 256, assets))
    write_root_image(made, tmp_path / "i", Progress())
    assert [read_file(tmp_path / "i", name, 9) for name in (b"f", b"g")] == [b"1", b"1"]


@pytest.mark.root
def test_a_full_disk_while_layers_are_merged_is_the_systems_own_error(
    small_disk: Path, tmp_path: Path
) -> None:
    parts = [layer([file(name, name.encode() * (1 << 20))]) for name in "abc"]
    with pytest.raises(OSError, match="No space left"):
        write_root_image(artifact_of(tmp_path / "a.smolmachine", *parts), small_disk / "i", Progress())


@pytest.mark.parametrize(
    "data", [layer([file("f", b"x" * 5000)])[:3000], b"not a tar" * 100, layer([file("n" * 256)])]
)
def test_hostile_layers_among_several_are_refused(tmp_path: Path, data: bytes) -> None:
    made = artifact_of(tmp_path / "a.smolmachine", layer([file("f")]), data)
    with pytest.raises(ArtifactError) as caught:
        write_root_image(made, tmp_path / "i", Progress())
    assert caught.value.next_step == "make the artifact again"


def test_a_damaged_artifact_is_found(tmp_path: Path) -> None:
    made = artifact_of(tmp_path / "a.smolmachine", layer([file("f", b"x" * 5000)]))
    data = bytearray(made.read_bytes())
    data[100] ^= 1
    made.write_bytes(data)
    with pytest.raises(ArtifactError):
        write_root_image(made, tmp_path / "i", Progress())


@pytest.mark.root
def test_a_full_disk_is_the_systems_own_error(small_disk: Path, tmp_path: Path) -> None:
    made = artifact_of(tmp_path / "a.smolmachine", layer([file("f", b"x" * (3 << 20))]))
    with pytest.raises(OSError, match="No space left"):
        write_root_image(made, small_disk / "i", Progress())
