"""Images written from members: read by our own reader and checked by fsck.erofs; hostile ones refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.crafted import Member, device, fifo, file, folder, hardlink, layer, symlink, xattrs
from tests.support.erofs import check, dumped, image_of, superblock, write_image

from bot_bottle.erofs.reader import read_file
from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.errors import ArtifactError

ANY_NAME = b"\xff\xfe name".decode("utf-8", "surrogateescape")
LARGE = 1 << 30


def test_files_of_every_size_around_a_block_are_read_back(tmp_path: Path) -> None:
    sizes = [0, 1, 2047, 2048, 2049, 4031, 4032, 4033, 4095, 4096, 4097, 6144, 6145, 8192, 3_000_001]
    data = {f"d/{size}": bytes(number % 251 + 1 for number in range(size)) for size in sizes}
    image = image_of(tmp_path, [file(name, content) for name, content in data.items()])
    for name, content in data.items():
        assert read_file(image, name.encode(), LARGE) == content


def test_names_of_every_kind_are_found(tmp_path: Path) -> None:
    names = [ANY_NAME, "n" * 255, "a/b/c/d", "!first", "-", ".hidden", "z/" + "l" * 255, "..x", "x..", "n\ne"]
    image = image_of(tmp_path, [file(name, name.encode("utf-8", "surrogateescape")) for name in names])
    for name in names:
        raw = name.encode("utf-8", "surrogateescape")
        assert read_file(image, raw, LARGE) == raw


@pytest.mark.parametrize("count", [0, 1, 250, 251, 5000])
def test_folders_of_any_size(tmp_path: Path, count: int) -> None:
    data = {f"d/{number:05}{'x' * (number % 40)}": b"%d" % number for number in range(count)}
    image = image_of(tmp_path, [folder("d"), *(file(name, content) for name, content in data.items())])
    for name, content in list(data.items())[:: 1 + count // 100]:
        assert read_file(image, name.encode(), LARGE) == content
    assert read_file(image, b"d/none", LARGE) is None


@given(st.lists(st.text("abc/.", min_size=1, max_size=12), max_size=30), st.data())
def test_any_tree_is_read_back_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    image = tmp_path_factory.mktemp("any") / "i"
    wanted: dict[bytes, bytes] = {}
    with image.open("wb") as target:
        writer = ImageWriter(target)
        for name in names:
            content = data.draw(st.binary(max_size=20)) * data.draw(st.sampled_from([1, 100, 500]))
            try:
                writer.add_file(name.encode(), content, 0o644)
            except ArtifactError:
                continue
            wanted[b"/".join(part for part in name.encode().split(b"/") if part not in (b"", b"."))] = content
        writer.finish()
    check(image)
    for path, content in wanted.items():
        assert read_file(image, path, LARGE) == content


def test_later_members_replace_files_and_hard_links_count(tmp_path: Path) -> None:
    image = tmp_path / "i"
    members = [
        file("a", b"one"), hardlink("b", "a"), hardlink("./c", "./b"), file("a", b"two"), file("b", b"three"),
        file("gone", b"1"), file("gone", b"2"), symlink("link", "a"), hardlink("link2", "link"),
        hardlink("a", "a"),
    ]  # fmt: skip
    assert write_image(image, layer(members)) == 6  # a, b, c, gone, link and the root
    check(image)
    found = {name: read_file(image, name, LARGE) for name in (b"a", b"b", b"c", b"gone")}
    assert found == {b"a": b"two", b"b": b"three", b"c": b"one", b"gone": b"2"}


def test_zeros_become_holes(tmp_path: Path) -> None:
    image = image_of(tmp_path, [file("zeros", bytes(50 << 20)), file("after", b"x" * 5000)])
    assert image.stat().st_size > 50 << 20
    assert image.stat().st_blocks * 512 < 1 << 20
    assert read_file(image, b"after", LARGE) == b"x" * 5000
    assert read_file(image, b"zeros", LARGE) == bytes(50 << 20)


def test_dump_erofs_sees_what_was_written(tmp_path: Path) -> None:
    """A third reader, of attributes: of the superblock's, and of every file's."""
    image = image_of(
        tmp_path,
        [
            folder("d", 0o1777, uid=70_000, gid=5, mtime=1_000_000_000),
            *(file(f"d/{size}", b"x" * size, mtime=size) for size in (0, 1, 4031, 4096, 4097, 3_000_001)),
            file("f", b"data", 0o4755, uid=1000, gid=4_000_000_000, pax_headers={"mtime": "1700000000.25"}),
            hardlink("d/again", "f"),
            symlink("s", "d/0", uid=3),
            file("x", b"", pax_headers=xattrs(user__name="value")),
            fifo("p"),
            device("n", 1, 3),
        ],
    )
    assert int(superblock(image)["inode count"]) == 13
    assert dumped(image, "d") == {
        "kind": "directory", "size": dumped(image, "d")["size"], "links": 2, "xattrs": False,
        "owner": (70_000, 5), "mode": 0o777, "time": "2001-09-09 01:46:40.000000000",
    }  # fmt: skip
    for size in (0, 1, 4031, 4096, 4097, 3_000_001):
        found = dumped(image, f"d/{size}")
        assert (found["kind"], found["size"], found["links"]) == ("regular file", size, 1)
    for name in ("f", "d/again"):
        assert dumped(image, name) == {
            "kind": "regular file", "size": 4, "links": 2, "xattrs": False,
            "owner": (1000, 4_000_000_000), "mode": 0o755, "time": "2023-11-14 22:13:20.250000000",
        }  # fmt: skip
    assert dumped(image, "x")["xattrs"]
    kinds = {name: dumped(image, name)["kind"] for name in "spn"}
    assert kinds == {"s": "symlink", "p": "FIFO", "n": "char dev"}
    assert (dumped(image, "s")["size"], dumped(image, "s")["owner"]) == (3, (3, 0))


def test_the_same_members_make_the_same_bytes(tmp_path: Path) -> None:
    members = [folder("d", uid=70000), file("d/f", b"x" * 9000), symlink("s", "d/f"), file("e/g", b"y")]
    first = image_of(tmp_path, members).read_bytes()
    assert image_of(tmp_path, members).read_bytes() == first


REFUSED: dict[str, list[Member]] = {
    "dots": [file("../x")],
    "dots within": [file("a/../../x")],
    "dots at the end": [folder("a/..")],
    "absolute": [file("/etc/passwd")],
    "absolute folder": [folder("/etc")],
    "name too long": [file("n" * 256)],
    "folder name too long": [file("n" * 256 + "/x")],
    "path too long": [folder("x/" * 2100)],
    "no name": [file(".")],
    "link to nothing": [hardlink("a", "missing")],
    "link to nothing below": [file("f"), hardlink("a", "f/x")],
    "link to a folder": [folder("d"), hardlink("a", "d")],
    "link to the root": [hardlink("a", ".")],
    "link by dots": [file("f"), hardlink("d/a", "../f")],
    "absolute link": [file("f"), hardlink("a", "/f")],
    "link through a symlink": [folder("d"), file("d/f"), symlink("s", "d"), hardlink("a", "s/f")],
    "link over a folder": [file("f"), folder("d"), hardlink("d", "f")],
    "below a file": [file("f"), file("f/x")],
    "below a symlink": [symlink("s", "/etc"), file("s/passwd")],
    "below a FIFO": [fifo("p"), folder("p/x")],
    "folder over a file": [file("f"), folder("f")],
    "folder over a symlink": [symlink("s", "x"), folder("s")],
    "file over a folder": [folder("d"), file("d")],
    "symlink over a folder": [file("d/f"), symlink("d", "x")],
    "symlink to nothing": [symlink("s", "")],
    "symlink too long": [symlink("s", "x" * 4096)],
    "a device number": [device("d", 1 << 12, 0)],
    "a minor number": [device("d", 1, 1 << 20)],
    "owner": [file("f", uid=(1 << 32) - 1)],
    "negative owner": [file("f", pax_headers={"gid": "-1"})],
    "time": [file("f", pax_headers={"mtime": str(1 << 63)})],
    "NUL in a name": [file("f", pax_headers={"path": "a\0b"})],
    "NUL in a symlink": [symlink("f", "x", pax_headers={"linkpath": "a\0b"})],
    "xattr": [file("f", pax_headers=xattrs(user__x="x" * (1 << 16)))],
    "xattr name": [file("f", pax_headers={"SCHILY.xattr.user." + "n" * 256: "x"})],
    "xattrs": [file("f", pax_headers={f"SCHILY.xattr.user.{n}": "x" * 60000 for n in range(5)})],
    "xattrs of the root": [folder(".", pax_headers=xattrs(user__x="x" * 3000))],
    "size": [file("huge", b"", pax_headers={"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": ""})],
}  # fmt: skip


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
def test_refuses_hostile_members(tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(ArtifactError):
        write_image(tmp_path / "i", layer(members))


@pytest.mark.parametrize("path", ["d/" * 2000, "f"])
def test_refuses_too_many_names(path: str) -> None:
    writer = ImageWriter(io.BytesIO(), memory=10 << 20)
    with pytest.raises(ArtifactError, match="too many files"):
        for number in range(100_000):
            writer.add_file(f"{number}/{path}x".encode(), b"", 0o644)


def test_refuses_data_of_another_size() -> None:
    member = tarfile.TarInfo("f")
    member.size = 5
    with pytest.raises(ArtifactError, match="another size"):
        ImageWriter(io.BytesIO()).member(member, iter([b"four"]))
    with pytest.raises(ArtifactError, match="another size"):
        ImageWriter(io.BytesIO()).member(member, iter([b"sixsix"]))
