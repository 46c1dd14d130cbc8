"""An artifact against its image: every kind of difference is seen, and told expected from not expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.crafted import (
    Member,
    device,
    fifo,
    file,
    folder,
    hardlink,
    layer,
    symlink,
    xattrs,
)
from tests.unit.verify.conftest import Compare, saved_image, written_artifact

from bot_bottle.errors import ArtifactError, DiskFullError, ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.smolmachine.format import read
from bot_bottle.structs import replace
from bot_bottle.verify.verify import Report, verify

Found = dict[str, list[str]]
BOTH_LINKED = [file("a"), hardlink("b", "a")]
DEEP = "/".join(["n" * 200] * 18)
CAPABLE = xattrs(security__capability="c", user__k="v")


def found(report: Report, *, expected: bool) -> Found:
    merged: Found = {}
    for finding in report.findings:
        if finding.expected is expected:
            merged.setdefault(finding.what, []).extend(example.path for example in finding.examples)
    return merged


UNEXPECTED: dict[str, tuple[list[Member], list[Member], Found]] = {
    "content": ([file("f", b"1")], [file("f", b"2")], {"content": ["/f"]}),
    "size": ([file("f", b"")], [file("f", b"2")], {"content": ["/f"], "size": ["/f"]}),
    "mode": ([file("f", mode=0o4755)], [file("f", mode=0o755)], {"mode": ["/f"]}),
    "mode of a folder": ([folder("d")], [folder("d", 0o1755)], {"mode": ["/d"]}),
    "owner": ([file("f", uid=1)], [file("f")], {"owner": ["/f"]}),
    "group": ([file("f", gid=2**31)], [file("f")], {"owner": ["/f"]}),
    "owner of a symlink, another": (
        [symlink("s", "f", uid=1)], [symlink("s", "f", uid=2)], {"owner": ["/s"]},
    ),
    "owner of a symlink, dropped": (
        [symlink("s", "f", uid=1)], [symlink("s", "f")], {"owner": ["/s"]},
    ),
    "time": ([file("f", mtime=5)], [file("f", mtime=6)], {"time": ["/f"]}),
    "second rounded up": (
        [file("f", mtime=5, pax_headers={"mtime": "5.9"})], [file("f", mtime=6)], {"time": ["/f"]},
    ),
    "missing file": ([file("f"), file("g")], [file("g")], {"file left out": ["/f"]}),
    "missing folder": ([file("d/f")], [], {"folder left out": ["/d"], "file left out": ["/d/f"]}),
    "missing symlink": ([symlink("s", "/")], [], {"symlink left out": ["/s"]}),
    "one more": ([], [file("f")], {"only in the artifact": ["/f"]}),
    "parent nobody asked for": ([], [file("d/f")], {"only in the artifact": ["/d", "/d/f"]}),
    "whiteout not applied": ([file("f")], [file("f"), file(".wh.f")], {"only in the artifact": ["/.wh.f"]}),
    "another type": ([file("f")], [symlink("f", "x")], {"type": ["/f"]}),
    "file in a folder's place": (
        [folder("d"), file("d/f")], [folder("d"), file("d/f"), file("d")],
        {"type": ["/d"], "file left out": ["/d/f"]},
    ),
    "link to another place": ([symlink("s", "f")], [symlink("s", "g")], {"link target": ["/s"]}),
    "link in another form for nothing": (
        [folder("d"), symlink("d/s", "../f")], [folder("d"), symlink("d/s", "/f")],
        {"link target": ["/d/s"]},
    ),
    "link over the root to another place": (
        [symlink("s", "../f")], [symlink("s", "/g")], {"link target": ["/s"]},
    ),
    "link through a link, misread": (
        [folder("a"), folder("a/b"), symlink("x", "a/b"), symlink("s", "../x/../f")],
        [folder("a"), folder("a/b"), symlink("x", "a/b"), symlink("s", "/f")],
        {"link target": ["/s"]},
    ),
    "link through nothing, misread": (
        [symlink("s", "../nothing/../f")], [symlink("s", "/f")], {"link target": ["/s"]},
    ),
    "hard link that became two files": (BOTH_LINKED, [file("a"), file("b")], {"hard links": ["/a", "/b"]}),
    "two files that became a hard link": ([file("a"), file("b")], BOTH_LINKED, {"hard links": ["/a", "/b"]}),
    "hard link of another file": (
        [file("a"), file("b"), hardlink("c", "a")],
        [file("a"), file("b"), hardlink("c", "b")],
        {"hard links": ["/a", "/b", "/c"]},
    ),
    "another attribute": (
        [file("f", pax_headers=xattrs(user__k="v"))], [file("f", pax_headers=xattrs(user__k="w"))],
        {"extended attributes": ["/f"]},
    ),
    "an attribute too many": (
        [file("f")], [file("f", pax_headers=xattrs(user__k="w"))], {"extended attributes": ["/f"]},
    ),
    "another device": ([device("c", 1, 3)], [device("c", 1, 5)], {"device": ["/c"]}),
}  # fmt: skip


@pytest.mark.parametrize(("image", "root", "differs"), UNEXPECTED.values(), ids=UNEXPECTED)
def test_differences_that_nothing_explains_fail_the_report(
    compare: Compare, image: list[Member], root: list[Member], differs: Found
) -> None:
    report = compare([image], root)
    assert not report.ok
    assert found(report, expected=False) == differs


EXPECTED: dict[str, tuple[list[Member], list[Member], Found]] = {
    "nothing": (BOTH_LINKED, BOTH_LINKED, {}),
    "another order": ([file("a/f"), file("b")], [file("b"), folder("a", mtime=0), file("a/f")], {}),
    "another first name": (BOTH_LINKED, [file("b"), hardlink("a", "b")], {}),
    "a folder told twice": ([folder("d", 0o700)], [folder("d"), folder("d", 0o700)], {}),
    "the last of two": ([file("f", b"2")], [file("f", b"1"), file("f", b"2")], {}),
    "names in another form": ([file("d/f")], [folder("./d/", mtime=0), file("./d//f")], {}),
    "the root's own attributes": ([file("f")], [folder("./", 0o700), file("f")], {}),
    "an entry through a link": (
        [folder("d"), symlink("s", "d"), file("d/f")], [folder("d"), symlink("s", "d"), file("s/f")], {},
    ),
    "devices": (
        [device("c", 1, 3), fifo("p"), folder("dev"), device("dev/null", 1, 3)], [folder("dev")],
        {"FIFO left out": ["/p"], "character device left out": ["/c", "/dev/null"]},
    ),
    "devices that are there": (
        [device("c", 1, 3)], [device("c", 1, 3)], {"character device left out": ["/c"]},
    ),
    "owner of a symlink": (
        [symlink("s", "f", uid=1, gid=2)], [symlink("s", "f", uid=1, gid=2)], {"owner of a symlink": ["/s"]},
    ),
    "attributes": (
        [file("f", pax_headers=CAPABLE)], [file("f")],
        {"file capability": ["/f"], "extended attribute": ["/f"]},
    ),
    "attributes that are there": (
        [file("f", pax_headers=CAPABLE)], [file("f", pax_headers=CAPABLE)],
        {"file capability": ["/f"], "extended attribute": ["/f"]},
    ),
    "part of a second": (
        [file("f", mtime=5, pax_headers={"mtime": "5.9"})], [file("f", mtime=5)],
        {"part of a second": ["/f"]},
    ),
    "links over the root": (
        [folder("d"), file("d/f"), symlink("l", "d"), symlink("over", "../../l/f"), symlink("d/root", "/")],
        [folder("d"), file("d/f"), symlink("l", "d"), symlink("over", "/d/f"), symlink("d/root", "..")],
        {"link written in another form": ["/d/root", "/over"]},
    ),
    "a path that is too long": (
        [file("f"), file(f"{DEEP}/x"), hardlink(f"{DEEP}/y", "f")],
        [file("f"), *(folder(DEEP[: 200 + 201 * level], mtime=0) for level in range(17))],
        {"folder left out": ["/" + DEEP], "file left out": [f"/{DEEP}/x", f"/{DEEP}/y"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("image", "root", "differs"), EXPECTED.values(), ids=EXPECTED)
def test_differences_that_smolvm_explains_are_listed_as_expected(
    compare: Compare, image: list[Member], root: list[Member], differs: Found
) -> None:
    report = compare([image], root)
    assert found(report, expected=False) == {}
    assert {what: [path[:300] for path in paths] for what, paths in found(report, expected=True).items()} == {
        what: [path[:300] for path in paths] for what, paths in differs.items()
    }
    assert report.ok


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("digest", "sha256:" + "0" * 64),
        ("platform", "linux/arm64"),
        ("entrypoint", ()),
        ("cmd", ("/x", "y")),
        ("env", ("A=1", "B=3")),
        ("workdir", "/"),
        ("user", "0"),
    ],
)
def test_settings_are_compared(compare: Compare, name: str, value: Any) -> None:
    settings = {"Entrypoint": ["/e", "é"], "Env": ["A=1", "B=2"], "WorkingDir": "/w", "User": "1:2"}
    assert compare([[]], [], settings).findings == ()
    report = compare([[]], [], settings, **{name: value})
    label = "image id" if name == "digest" else name
    assert found(report, expected=False) == {"setting": [label]}


def test_variables_without_a_value_are_left_out_as_engines_leave_them_out(compare: Compare) -> None:
    report = compare([[]], [], {"Env": ["A=1", "B"]}, env=("A=1",))
    assert report.ok
    assert found(report, expected=True) == {"setting": ["env"]}


REFUSED: dict[str, tuple[list[Member], str]] = {
    "a name that climbs": ([file("../x")], "a name that leads outside"),
    "an absolute name": ([file("/x")], "a name that leads outside"),
    "a link to the root": ([symlink("s", "/")], "a symlink to the root"),
    "a link to the root, hidden": ([symlink("s", "/a/..")], "a symlink to the root"),
    "a link that climbs": ([symlink("s", "../x")], "a symlink that leads above the root"),
    "an absolute link that climbs": ([symlink("s", "/../x")], "a symlink that leads above the root"),
    "through an absolute link": (
        [folder("d"), symlink("s", "/d"), file("s/x")], "an entry through a link",
    ),
    "through a link to nothing": ([symlink("s", "d"), file("s/x")], "an entry through a link"),
    "through a link to itself": ([symlink("s", "s"), file("s/x")], "an entry through a link"),
    "under a file": ([file("f"), file("f/x")], "an entry in something that is not a folder"),
    "a hard link to nothing": ([hardlink("h", "nothing")], "a dangling hard link"),
    "a hard link out": ([hardlink("h", "../x")], "a name that leads outside"),
    "a path that is too long": ([file("d/" * 3000 + "x")], "a path that no file system can store"),
    "a link that is too long": ([symlink("s", "d/" * 3000)], "a symlink that no file system can store"),
}  # fmt: skip


@pytest.mark.parametrize(("root", "why"), REFUSED.values(), ids=REFUSED)
def test_what_smolvm_would_not_unpack_is_seen_without_an_image(
    tmp_path: Path, root: list[Member], why: str
) -> None:
    conf = saved_image(tmp_path / "image.tar", [[]], {})
    written_artifact(tmp_path / "made.smolmachine", layer(root), conf)
    report = verify(tmp_path / "made.smolmachine", None, tmp_path)
    assert not report.ok
    assert why in {finding.why for finding in report.findings}
    assert {finding.what for finding in report.findings} == {"smolvm would not unpack it"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: root[:700], "cut short"),
        (lambda root: root[:-1024], "cut short"),
        (lambda root: b"\xff" + root[1:], "damaged"),
        (lambda _root: b"", "cut short"),
        (lambda root: root[:156] + b"A" + root[157:], "damaged"),
    ],
    ids=["in data", "without an end", "header", "empty", "type"],
)
def test_verify_refuses_a_root_filesystem_that_is_not_a_tar(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    conf = saved_image(tmp_path / "image.tar", [[]], {})
    written_artifact(tmp_path / "made.smolmachine", change(layer([file("f", b"y" * 600)])), conf)
    with pytest.raises(ArtifactError, match=words):
        verify(tmp_path / "made.smolmachine", None, tmp_path)


def test_numbers_of_any_size_are_compared(compare: Compare) -> None:
    root = [
        file("f", uid=2**70, pax_headers={"mtime": "1.\udcff5", "uid": str(10**100)}),
        symlink("s", "\udcff"),
    ]
    report = compare([[file("f"), symlink("s", "\udcfe")]], root)
    assert found(report, expected=False) == {"owner": ["/f"], "time": ["/f"], "link target": ["/s"]}


def test_examples_are_few_and_printable_and_the_count_is_whole(compare: Compare) -> None:
    report = compare([[file(f"f\n\udcff{number:04}") for number in range(500)]], [])
    [finding] = report.findings
    assert finding.count == 500
    assert [example.path for example in finding.examples] == [rf"/f\n\xff{number:04}" for number in range(20)]


def test_an_artifact_of_several_layers_is_not_judged(tmp_path: Path) -> None:
    conf = saved_image(tmp_path / "image.tar", [[]], {})
    path = tmp_path / "made.smolmachine"
    written_artifact(path, layer([]), conf)
    assets = read(path).manifest.assets
    written_artifact(path, layer([]), conf, assets=replace(assets, layers=assets.layers * 2))
    with pytest.raises(ArtifactError, match="2 layers"):
        verify(path, None, tmp_path)


def test_a_damaged_image_is_the_images_fault(tmp_path: Path) -> None:
    conf = saved_image(tmp_path / "image.tar", [[file("f", b"here")]], {})
    written_artifact(tmp_path / "made.smolmachine", layer([file("f", b"here")]), conf)
    image = tmp_path / "image.tar"
    image.write_bytes(image.read_bytes().replace(b"here", b"ther"))
    with open_archive(image) as opened, pytest.raises(ImageError, match="damaged"):
        verify(tmp_path / "made.smolmachine", opened, tmp_path)


def test_verify_leaves_no_file_in_its_folder(compare: Compare, tmp_path: Path) -> None:
    compare([[file("f")]], [file("f")])
    assert {path.name for path in tmp_path.iterdir()} == {"image.tar", "made.smolmachine"}
    with pytest.raises(ArtifactError):
        verify(tmp_path / "image.tar", None, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"image.tar", "made.smolmachine"}


def test_verify_reports_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    conf = saved_image(tmp_path / "image.tar", [[]], {})
    root = layer([file(f"{'n' * 90}{number}") for number in range(8000)])
    written_artifact(tmp_path / "made.smolmachine", root, conf)
    with pytest.raises(DiskFullError, match="list of files"):
        verify(tmp_path / "made.smolmachine", None, small_disk)
    assert not list(small_disk.iterdir())
