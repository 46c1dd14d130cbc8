"""The kernel's own reader against the members that an image was made from."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from tests.support.crafted import Member, device, fifo, file, folder, hardlink, layer, symlink, xattrs
from tests.support.erofs import image_of, listed, mounted

pytestmark = pytest.mark.root

NOBODY = 2**32 - 1
ACL_ENTRIES = [(1, 7, NOBODY), (2, 5, 70_000), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY)]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ACL_ENTRIES)
ODD = b"\xff\xfe".decode("utf-8", "surrogateescape")


def raw(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

MEMBERS: list[Member] = [
    folder(".", 0o751, uid=3, gid=4),
    folder("d", 0o2755, uid=70_000, gid=4_000_000_000),
    file("d/setuid", b"x" * 5000, 0o4755, uid=1 << 20),
    hardlink("d/hard", "d/setuid"),
    hardlink("also", "d/hard"),
    file("d/capability", b"c", 0o755, pax_headers={"SCHILY.xattr.security.capability": raw(CAPABILITY)}),
    file("d/xattrs", b"y" * 4096, 0o600, pax_headers=xattrs(user__foo="bar", user__big="z" * 3000)),
    file("d/acl", b"a", 0o750, pax_headers={"SCHILY.xattr.system.posix_acl_access": raw(ACL)}),
    folder("d/default acl", pax_headers={"SCHILY.xattr.system.posix_acl_default": raw(ACL)}),
    device("d/null", 1, 3),
    device("d/block", 259, 70_000, 0o660, type=b"4"),
    fifo("d/fifo"),
    hardlink("d/fifo2", "d/fifo"),
    file("d/empty", b""),
    file("d/" + "n" * 255, b"q"),
    symlink("d/long link", "/" + "a/" * 2000 + "b", uid=5, gid=6),
    symlink("d/link", "x", mtime=0),
    hardlink("d/link2", "d/link"),
    file(f"d/{ODD}", b"not UTF-8"),
    file("d/old", b"o", pax_headers={"mtime": "-86400"}),
    file("d/exact", b"e", pax_headers={"mtime": "1700000000.123456789"}),
    folder("sticky", 0o1777),
    folder("many"),
    folder("tail"),
    *(file(f"many/{n:05}-{'p' * (n % 40)}", b"%d" % n, mtime=n) for n in range(5000)),
    *(file(f"tail/{size}", bytes([size % 255 + 1]) * size) for size in range(3900, 4300)),
    file("two MB", bytes(range(256)) * 8192 + b"end"),
    *(folder("deep/" * depth) for depth in range(1, 200)),
    file("deep/" * 199 + "f"),
]  # fmt: skip


def unpacked(folder: Path, data: bytes) -> Path:
    """Unpack a tar with GNU tar, which shares nothing with our reader."""
    folder.mkdir()
    options = ["--numeric-owner", "--delay-directory-restore", "--xattrs", "--xattrs-include=*"]
    command = ["tar", "xpf", "-", *options, "-C", str(folder)]
    subprocess.run(command, input=data, check=True)
    return folder


def test_the_kernel_sees_what_tar_unpacks(tmp_path: Path) -> None:
    wanted = listed(unpacked(tmp_path / "tree", layer(MEMBERS)))
    with mounted(image_of(tmp_path, MEMBERS), tmp_path / "mounted") as root:
        seen = listed(root)
    assert len(seen) > 5600
    assert seen.keys() == wanted.keys()
    assert [(name, seen[name], wanted[name]) for name in seen if seen[name] != wanted[name]] == []


def test_the_kernel_sees_what_other_file_systems_do_not_store(tmp_path: Path) -> None:
    records = xattrs(user__large="z" * 60_000, trusted__t="1", odd__o="left out")
    members = [
        file("xattrs", b"y" * 100, pax_headers=records),
        file("late", b"l", pax_headers={"mtime": "99999999999.5"}),
        file("under/parents/that/have/no/member", b"p"),
    ]
    with mounted(image_of(tmp_path, members), tmp_path / "mounted") as root:
        seen = listed(root)
    assert seen["xattrs"]["xattrs"] == {"user.large": b"z" * 60_000, "trusted.t": b"1"}
    assert seen["xattrs"]["content"] == b"y" * 100
    assert seen["late"]["mtime"] == 99999999999_500_000_000
    parent = seen["under/parents"]
    assert (parent["mode"], parent["owner"], parent["mtime"], parent["names"]) == ("drwxr-xr-x", (0, 0), 0, 3)


def test_the_kernel_counts_inodes_and_blocks(tmp_path: Path) -> None:
    image = image_of(tmp_path, MEMBERS)
    with mounted(image, tmp_path / "mounted") as root:
        facts = os.statvfs(root)
        inodes = {path.lstat().st_ino for path in [root, *root.rglob("*")]}
    assert facts.f_files - facts.f_ffree == len(inodes)
    assert facts.f_blocks * 4096 == image.stat().st_size
