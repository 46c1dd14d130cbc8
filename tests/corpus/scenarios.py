"""What images are made of here: steps that every maker of images can do, and what each one tries.

A step adds the members of a tar, or runs a shell script in what the steps before it have made.
"""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.crafted import Member, fifo, file, folder, hardlink, symlink, xattrs

_APPLETS = "cat chmod chown cp dd ln mkdir mkfifo mknod mv rm rmdir seq sh touch truncate xargs"


@dataclass(frozen=True)
class Add:
    """Add the members of a tar at the root."""

    members: list[Member] = field(repr=False)


@dataclass(frozen=True)
class Run:
    """Run a script with busybox, as root, in the root folder."""

    script: str


Step = Add | Run


def base() -> Add:
    """A shell and what it needs."""
    program = shutil.which("busybox")
    assert program, "busybox is not installed; scripts/setup test installs it"
    return Add(
        [
            folder("bin"),
            file("bin/busybox", Path(program).read_bytes(), 0o755),
            *(symlink(f"bin/{name}", "busybox") for name in _APPLETS.split()),
            folder("etc"),
            file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
            file("etc/group", b"root:x:0:\n"),
            folder("tmp", 0o1777),
        ]
    )


def _capability(effective: int) -> str:
    """`security.capability`, version 2: cap_net_raw, permitted and perhaps effective."""
    return _text(struct.pack("<IIIII", 0x02000000 | effective, 1 << 13, 0, 0, 0))


def _acl() -> str:
    """`system.posix_acl_access`, version 2: user::rw-, user:1000:r--, group::r--, mask::r--, other::---."""
    entries = ((1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    return _text(struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


REMOVED: list[Step] = [
    Add(
        [
            folder("d"), file("d/a", b"low"), file("d/b"), folder("d/sub"), file("d/sub/c"),
            folder("e"), file("e/x"), folder("opaque"), file("opaque/below"),
            folder("moved"), file("moved/x"), folder("later"), file("later/below"),
            file("f", b"low"), file("g"), file("k"), symlink("l", "d"), symlink("sl", "f"),
            folder("t"), file("t/x"), fifo("pipe"), folder("deep"), folder("deep/er"), file("deep/er/x"),
        ]
    ),
    Run("rm f l k; rm -r e; touch new; rm new; mkdir gone; touch gone/x; rm -r gone; rm -r later"),
    Run(
        "echo back > f; mkdir -p e/y; rm -r opaque; mkdir opaque; chmod 700 opaque; echo n > opaque/n;"
        "mkdir later; echo n > later/n"
    ),
    Run(
        "rm -r d/sub; echo file > d/sub; rm g; mkdir g; touch g/in; rm sl; mkdir sl; touch sl/in;"
        "rm -r t; ln -s d t; rm pipe; echo plain > pipe; mv moved elsewhere; rm -r deep/er"
    ),
    Run("rm -r g; ln -s d/a g; rm t; mkdir t; touch t/again; rm d/sub; mkfifo d/sub; rm -r opaque"),
]  # fmt: skip

LINKS: list[Step] = [
    Add(
        [
            file("orig", b"one file"), hardlink("second", "orig"), folder("in"), hardlink("in/third", "orig"),
            file("other", b"another"), hardlink("o2", "other"), hardlink("o3", "other"),
            folder("real"), file("real/a"), symlink("via", "real"), symlink("abs", "/real"),
            symlink("to-link", "via"), symlink("s-hard", "orig"), hardlink("s-hard2", "s-hard"),
        ]
    ),
    Run("ln orig across; echo new > made; ln made in/made; ln made made2"),
    Run("rm orig; echo replaced > o2; chmod 600 o3; ln -s round about; ln -s about round; ln -s self self"),
    Run(
        "ln -s / root; ln -s ../../../../etc/passwd over; ln -s /../../etc/passwd over2;"
        "ln -s nowhere/x dangling;"
        "ln -s ../in/../../../bin in/climbs; ln -s . dot; ln -s .. in/up; ln -s /proc/self/exe exe;"
        "ln -s via/../../etc/passwd through"
    ),
    Run("echo x > via/through; echo y > abs/absolute; echo z > to-link/twice; rm made; ln o3 in/o4"),
    Add([folder("in"), file("in/made", b"over a hard link"), symlink("in/made2", "made")]),
]  # fmt: skip

ATTRIBUTES: list[Step] = [
    Add(
        [
            file("suid", mode=0o4755), file("sgid", mode=0o2755), file("all", mode=0o7777),
            file("none", mode=0),
            folder("sticky", 0o1777), folder("sgid-folder", 0o2775), folder("closed", 0),
            file("owned", uid=1000, gid=1001), symlink("owned-link", "owned", uid=1000, gid=1001),
            file("large", uid=2**31, gid=2**31 + 1), file("largest", uid=2**32 - 2, gid=2**32 - 2),
            file("epoch", mtime=0), file("first", mtime=1), file("late", mtime=2**33),
            file("before", mtime=-86400),
            file("part", mtime=7, pax_headers={"mtime": "7.123456789"}),
            folder("old", mtime=1), file("old/x", mtime=2), symlink("old-link", "x", mtime=3),
        ]
    ),
    Add(
        [
            file("ping", mode=0o755, pax_headers=xattrs(security__capability=_capability(1))),
            file("user", pax_headers=xattrs(user__k="v", user__empty="", user__binary="\udcff=\n")),
            folder("user-folder", pax_headers=xattrs(user__of="folder")),
            file("acl", mode=0o640, pax_headers=xattrs(system__posix_acl_access=_acl())),
            hardlink("user-link", "user"),
        ]
    ),
    Run(
        "chmod 1755 suid; chown 5:6 sgid; chmod 2711 sgid-folder; chown 1000:1000 sticky;"
        "chown -h 7:8 owned-link;"
        "touch -d @11 first; touch -h -d @12 old-link; chmod 700 closed; mknod null c 1 3; mknod disk b 7 9;"
        "chmod 600 disk; mkfifo pipe; chown 9:9 pipe; ln pipe pipe2; ln null null2"
    ),
    Run("chmod 755 user; touch -d @13 old/x old; cp -p part copied; mv ping pong; chmod 711 user-folder"),
]  # fmt: skip

DEEP = "/".join([letter * 250 for letter in "abcdefghijklmno"])

NAMES: list[Step] = [
    Add(
        [
            file("new\nline"), file("\udcff\udcfe"), file("n" * 255), folder("ü" * 127),
            file("ü" * 127 + "/" + "é" * 120), file("a.wh.b"), file("..c"), file("-rf"), file(" "),
            file("end "),
            file("back\\slash"), file('quo"te'), file("tab\t\x01\x7f"), file("*"), file("\u202eevil"),
            file("n\u0303"), file("\u00f1"), file("UPPER"), file("upper"),
            symlink("s", "t" * 4000), symlink("bad", "\udcff\n"), folder("x" * 155),
            file("x" * 155 + "/" + "y" * 100), file("x" * 155 + "/" + "z" * 101), folder("x" * 99),
            file("x" * 100),
            file(f"{DEEP}/deep"), hardlink("to-deep", f"{DEEP}/deep"),
        ]
    ),
    Run("rm 'UPPER' '*'; echo run > \"$(printf 'run\\n\\377')\"; mkdir './-d'; touch './-d/x'; rm ./-rf"),
    Run(
        "cd " + "/".join(["a" * 250, "b" * 250]) + "; rm -r " + "c" * 250 + "; echo less > instead;"
        "cd /; i=0; while [ $i -lt 16 ]; do mkdir "
        + "q" * 240 + "; cd " + "q" * 240 + "; i=$((i+1)); done; echo in > x"
    ),
]  # fmt: skip

SIZES: list[Step] = [
    Add(
        [
            file("empty", b""), file("block", b"b" * 512), file("more", b"m" * 513),
            file("zeros", bytes(100_000)),
        ]
    ),
    Run(
        "truncate -s 30000001 sparse; printf x | dd of=sparse bs=1 seek=20000000 conv=notrunc;"
        "truncate -s 4096 hole; seq 50000 > text; cp text text2; : > text3"
    ),
    Run("mkdir many; cd many; seq 1500 | xargs touch; : > ../more; cat ../zeros >> ../text2"),
    Run("cd many; seq 2 3 1500 | xargs rm; : > ../text"),
]  # fmt: skip

HUGE: list[Step] = [
    Run("truncate -s 5000000001 sparse; printf x | dd of=sparse bs=1 seek=3000000000 conv=notrunc"),
    Run("printf y | dd of=end bs=1 seek=4999999999; rm sparse"),
]

MANY: list[Step] = [
    Run(
        "mkdir many; cd many; for part in $(seq 200); do mkdir $part; cd $part; seq 1000 | xargs touch;"
        "echo $part > 7; ln 7 linked; ln -s 7 link; cd ..; done"
    ),
    Run("cd many; rm -r 1; for part in $(seq 2 200); do rm $part/500; echo new > $part/600; done"),
]

SCENARIOS: dict[str, list[Step]] = {
    "removed": REMOVED,
    "links": LINKS,
    "attributes": ATTRIBUTES,
    "names": NAMES,
}

LARGE: dict[str, list[Step]] = {"sizes": SIZES, "five gigabytes": HUGE, "200,000 files": MANY}
SLOWEST = ("five gigabytes", "200,000 files")
