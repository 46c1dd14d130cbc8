"""Layers to one root filesystem: every rule by crafted layers, which tests/engine holds against engines."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from tests.support.crafted import (
    Member,
    brief,
    device,
    fifo,
    file,
    files_tar,
    folder,
    hardlink,
    layer,
    saved,
    saved_files,
    symlink,
    tree,
    xattrs,
)
from tests.support.layer_cases import CASES, OURS_ALONE, REFUSED, Case, together

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.rootfs.flatten import flatten

MOVABLE = {name: case for name, case in {**CASES, **OURS_ALONE}.items() if not case.alone}


def flat(tmp_path: Path, layers: list[list[Member]], *, portable: bool = False) -> bytes:
    path = tmp_path / "image.tar"
    path.write_bytes(saved(*(layer(members) for members in layers)))
    with open_archive(path) as image:
        flattened = flatten(image, portable=portable)
        data = b"".join(flattened.chunks())
        assert len(data) == flattened.size
        assert flattened.entries == len(tree(data))
        assert b"".join(flattened.chunks()) == data
    return data


@pytest.mark.parametrize("case", [*CASES.values(), *OURS_ALONE.values()], ids=[*CASES, *OURS_ALONE])
def test_shows_what_the_engine_shows(tmp_path: Path, case: Case) -> None:
    assert brief(flat(tmp_path, case.layers)) == case.shows


def test_cases_side_by_side_show_the_same(tmp_path: Path) -> None:
    layers, shows = together(MOVABLE)
    assert brief(flat(tmp_path, layers)) == shows


@pytest.mark.parametrize("layers", REFUSED.values(), ids=REFUSED)
def test_refuses_what_no_file_system_holds(tmp_path: Path, layers: list[list[Member]]) -> None:
    with pytest.raises(ImageError) as caught:
        flat(tmp_path, layers)
    assert caught.value.why


def test_attributes_come_through(tmp_path: Path) -> None:
    found = tree(flat(tmp_path, CASES["modes and owners"].layers))
    facts = {name: (oct(seen.mode), seen.uid, seen.gid) for name, seen in found.items()}
    assert facts == {
        "suid": ("0o4755", 0, 0),
        "all": ("0o7777", 1000, 1000),
        "sticky": ("0o700", 3, 4),
        "s": ("0o777", 1, 2),
        "big": ("0o644", 2**32 - 2, 2**31),
        "none": ("0o644", 0, 0),
        "over": ("0o644", 5, 0),
    }
    assert found["sticky"].mtime == 9
    assert found["s"].mtime == 77


def test_times_that_engines_cannot_set_are_zero(tmp_path: Path) -> None:
    found = tree(flat(tmp_path, CASES["times"].layers))
    assert {name: seen.mtime for name, seen in found.items()} == {
        "zero": 0,
        "negative": 0,
        "late": 2**33,
        "too late": 0,
        "part": 1,
        "negative part": 0,
    }


def test_parts_of_a_second_are_kept_for_those_who_can_read_them(tmp_path: Path) -> None:
    data = flat(tmp_path, [[file("f", pax_headers={"mtime": "1.75"})]])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("f").mtime == 1.75


def test_a_hard_link_sets_the_attributes_of_the_file(tmp_path: Path) -> None:
    found = tree(flat(tmp_path, CASES["hard link's own attributes"].layers))
    assert found["f"] == found["g"]
    assert (found["f"].mode, found["f"].uid, found["f"].gid, found["f"].mtime) == (0o4755, 7, 8, 99)


def test_a_missing_parent_is_made_as_engines_make_it(tmp_path: Path) -> None:
    lower = [folder("tmp", 0o1777, uid=3)]
    found = tree(flat(tmp_path, [lower, [file("tmp/x")]]))
    assert (found["tmp"].mode, found["tmp"].uid, found["tmp"].mtime) == (0o755, 0, 0)


def test_extended_attributes_come_through_and_those_of_overlayfs_do_not(tmp_path: Path) -> None:
    binary = "\udcff\0=\n"
    data = flat(
        tmp_path,
        [
            [
                file("f", pax_headers=xattrs(user__k="v", trusted__t="t", user__e="", user__b=binary)),
                hardlink("g", "f", pax_headers=xattrs(user__k="w", user__z="z")),
                folder("d", pax_headers=xattrs(user__d="1", trusted__overlay__redirect="/etc")),
                symlink("s", "f", pax_headers=xattrs(trusted__s="2")),
                file("plain", pax_headers={"comment": "nothing", "SCHILY.acl.access": "user::rw-"}),
            ],
            [folder("d")],
        ],
    )
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        found = {
            member.name: {key: value for key, value in member.pax_headers.items() if key != "hdrcharset"}
            for member in tar
            if not member.islnk()
        }
    assert found == {
        "d": {},  # a folder's attributes are all the upper one's
        "f": xattrs(user__k="w", trusted__t="t", user__b=binary, user__z="z"),
        "s": xattrs(trusted__s="2"),
        "plain": {},
    }


def test_order_is_folders_then_files_as_the_layers_have_them(tmp_path: Path) -> None:
    data = flat(
        tmp_path,
        [
            [file("z/2"), folder("b"), file("b/1"), hardlink("a", "z/2"), symlink("y", "x")],
            [file("a0"), folder("b/c"), file("m/n")],
        ],
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = [(member.name, member.linkname) for member in tar]
    assert names == [
        ("b", ""),
        ("b/c", ""),
        ("m", ""),
        ("z", ""),
        ("a", ""),
        ("z/2", "a"),
        ("b/1", ""),
        ("y", "x"),
        ("a0", ""),
        ("m/n", ""),
    ]


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    files = saved_files([layer(members) for members in together(MOVABLE)[0]])
    outputs = set()
    for number, names in enumerate((list(files), sorted(files), sorted(files, reverse=True))):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(files_tar({name: files[name] for name in names}))
        before = os.umask(0o077 if number else 0o000)
        try:
            with open_archive(path) as image:
                outputs.add(b"".join(flatten(image).chunks()))
        finally:
            os.umask(before)
    assert len(outputs) == 1


def test_chunks_are_large_and_bounded(tmp_path: Path) -> None:
    members = [file(f"f{number}", b"y" * 700) for number in range(2000)] + [file("big", b"z" * 5_000_000)]
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer(members)))
    heard: list[int] = []
    with open_archive(path) as image:
        sizes = [len(chunk) for chunk in flatten(image, on_bytes=heard.append).chunks()]
    assert max(sizes) < 3 << 20
    assert min(sizes[:-1]) >= 256 << 10
    assert 5_000_000 < sum(heard) <= len(layer(members))


def test_what_smolvm_loses_is_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    many = [fifo(f"p{number:03}") for number in range(500)]
    path.write_bytes(
        saved(
            layer(
                [
                    *many,
                    device("c", 1, 3),
                    folder("dev"),
                    device("dev/null", 1, 3),
                    file("ping", pax_headers=xattrs(security__capability="c", user__k="v")),
                    symlink("s", "ping", uid=7),
                    file("part", pax_headers={"mtime": "7.5"}),
                    file("bad\x1bname\udcff", pax_headers=xattrs(user__k="v")),
                ]
            )
        )
    )
    with open_archive(path) as image:
        flattened = flatten(image)
        data = b"".join(flattened.chunks())
    losses = {loss.kind: (loss.count, len(loss.examples)) for loss in flattened.losses}
    assert losses == {
        "FIFO": (500, 20),
        "device": (1, 1),
        "extended attribute": (2, 2),
        "file capability": (1, 1),
        "owner of a symlink": (1, 1),
    }
    examples = {loss.kind: loss.examples for loss in flattened.losses}
    assert examples["extended attribute"] == ("/ping", "/bad\\x1bname\\xff")
    assert set(brief(data)) == {"dev", "ping", "s", "part", "bad\x1bname\udcff"}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        assert not any(member.pax_headers for member in tar)


def test_a_path_too_long_for_smolvm_is_left_out_and_told(tmp_path: Path) -> None:
    deep = "/".join(["n" * 200] * 18)
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer([file(f"{deep}/x"), hardlink("short", f"{deep}/x")])))
    with open_archive(path) as image:
        flattened = flatten(image)
        found = brief(b"".join(flattened.chunks()))
    assert found["short"] == b"x"
    assert [(loss.kind, loss.count) for loss in flattened.losses] == [("path too long", 1)]


def test_an_image_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    records = {"GNU.sparse.realsize": str(129 << 30), "GNU.sparse.map": "0,1"}
    with pytest.raises(ImageError, match="too large"):
        flat(tmp_path, [[file("huge", pax_headers=records)]])


def test_a_file_may_have_many_names(tmp_path: Path) -> None:
    links = [hardlink(f"n{number:05}", "f") for number in range(5_000)]
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layer([file("f"), *links])))
    with open_archive(path) as image:
        flattened = flatten(image)
        with tarfile.open(fileobj=io.BytesIO(b"".join(flattened.chunks()))) as tar:
            assert sum(member.linkname == "f" for member in tar) == 5_000
