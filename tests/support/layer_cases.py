"""Crafted stacks of layers, and the tree that docker and podman show for each.

What stands here was seen with docker 20.10 and podman 4.3; tests/engine/test_corpus.py holds it against the
engines at hand.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

from tests.support.crafted import Member, device, fifo, file, folder, hardlink, symlink, xattrs

Brief = dict[str, bytes | str]


class Case(NamedTuple):
    """Layers, bottom first, and what shows; `alone` when names lead to the root and cannot be moved."""

    layers: list[list[Member]]
    shows: Brief
    alone: bool = False


LOWER = [folder("d"), file("d/a", b"low"), file("f", b"low"), symlink("l", "d"), hardlink("h", "f")]
_ABOVE: Brief = {"d": "/", "d/a": b"low", "f": b"low", "l": "-> d", "h": "= f"}


def _but(**changes: bytes | str | None) -> Brief:
    changed = {**_ABOVE, **{name.replace("__", "/"): value for name, value in changes.items()}}
    return {name: value for name, value in changed.items() if value is not None}


def _sparse(size: int, parts: str) -> dict[str, str]:
    count = (parts.count(",") + 1) // 2
    return {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": str(count), "GNU.sparse.map": parts}


CASES: dict[str, Case] = {
    "whiteout of a file": Case([LOWER, [file(".wh.f", b"")]], _but(f=None, h=b"low")),
    "whiteout of a folder": Case([LOWER, [file(".wh.d", b"")]], _but(d=None, d__a=None)),
    "whiteout of a symlink": Case([LOWER, [file(".wh.l", b"")]], _but(l=None)),
    "whiteout of nothing there": Case([LOWER, [file(".wh.none", b"")]], _but()),
    "whiteout, then the file": Case(
        [LOWER, [file(".wh.f", b""), file("f", b"new")]], _but(f=b"new", h=b"low")
    ),
    "whiteout, then the folder": Case(
        [LOWER, [file(".wh.d", b""), folder("d"), file("d/n")]], _but(d__n=b"x")
    ),
    "whiteout that is a folder": Case([LOWER, [folder(".wh.d")]], _but(d=None, d__a=None)),
    "whiteout in a folder not there": Case([LOWER, [file("p/q/.wh.x", b"")]], _but(p="/", p__q="/")),
    "whiteout in a lower link's folder": Case([LOWER, [file("l/.wh.a", b"")]], _but(l="/")),
    "whiteout through a link": Case(
        [LOWER, [folder("d"), symlink("m", "d"), file("m/.wh.a", b"")]], _but(d__a=None, m="-> d")
    ),
    "whiteout in a new folder through a link": Case(
        [LOWER, [folder("d"), symlink("m", "d"), file("m/n/.wh.x", b"")]], _but(d__n="/", m="-> d")
    ),
    "whiteout, and the name again above": Case(
        [LOWER, [file(".wh.d", b"")], [folder("d"), file("d/n")]], _but(d__a=None, d__n=b"x")
    ),
    "opaque folder": Case(
        [LOWER, [folder("d"), file("d/.wh..wh..opq", b""), file("d/n")]], _but(d__a=None, d__n=b"x")
    ),
    "opaque folder, said last": Case(
        [LOWER, [folder("d"), file("d/n"), file("d/.wh..wh..opq", b"")]], _but(d__a=None, d__n=b"x")
    ),
    "opaque folder without an entry": Case(
        [LOWER, [file("d/.wh..wh..opq", b""), file("d/n")]], _but(d__a=None, d__n=b"x")
    ),
    "opaque folder over a file": Case(
        [LOWER, [folder("f"), file("f/.wh..wh..opq", b"")]], _but(f="/", h=b"low")
    ),
    "opaque by attribute": Case(
        [LOWER, [folder("d", pax_headers=xattrs(trusted__overlay__opaque="y")), file("d/n")]],
        _but(d__a=None, d__n=b"x"),
    ),
    "opaque root": Case([LOWER, [file("n"), file(".wh..wh..opq", b"")]], _but(n=b"x"), alone=True),
    "device 0/0": Case([LOWER, [device("f", 0, 0), device("n", 0, 0)]], _but(f=None, h=b"low")),
    "other aufs files": Case([LOWER, [file(".wh..wh.aufs", b""), file("d/.wh..wh.orph", b"")]], _but()),
    "hard links kept by aufs": Case(
        [[folder(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"q"), hardlink("y", ".wh..wh.plnk/1.2")]],
        {".wh..wh.plnk": "/", ".wh..wh.plnk/1.2": b"q", "y": "= .wh..wh.plnk/1.2"},
    ),
    "a whiteout's name as a folder": Case(
        [[file("x"), file("d")], [file(".wh.d/y")]], {"x": b"x", "d": b"x", ".wh.d": "/", ".wh.d/y": b"x"}
    ),
    "file over folder": Case([LOWER, [file("d", b"new")]], _but(d=b"new", d__a=None)),
    "folder over file": Case([LOWER, [folder("f"), file("f/x")]], _but(f="/", f__x=b"x", h=b"low")),
    "folder over symlink": Case([LOWER, [folder("l"), file("l/x")]], _but(l="/", l__x=b"x")),
    "symlink over folder": Case([LOWER, [symlink("d", "f")]], _but(d="-> f", d__a=None)),
    "there and back": Case(
        [LOWER, [file("d", b"1")], [folder("d"), file("d/z")], [symlink("d", "z")], [folder("d")]],
        _but(d__a=None),
    ),
    "folder over folder": Case([LOWER, [folder("d"), file("d/b")]], _but(d__b=b"x")),
    "entry under a lower link": Case([LOWER, [file("l/n")]], _but(l="/", l__n=b"x")),
    "missing parents": Case([[file("p/q/r")]], {"p": "/", "p/q": "/", "p/q/r": b"x"}),
    "missing parents of a hard link": Case(
        [[file("f"), hardlink("p/q", "f")]], {"f": b"x", "p": "/", "p/q": "= f"}
    ),
    "through links of its own layer": Case(
        [
            [
                folder("d"),
                folder("d/e"),
                symlink("r", "d"),
                file("r/1"),
                symlink("d/e/up", ".."),
                file("d/e/up/2"),
            ],
        ],
        {"d": "/", "d/e": "/", "d/1": b"x", "d/2": b"x", "d/e/up": "-> ..", "r": "-> d"},
    ),
    "through links to the root": Case(
        [
            [folder("d"), symlink("a", "/d"), file("a/1"), symlink("b", "../../d"), file("b/2")],
            [folder("e"), symlink("e/c", "/../e/."), file("e/c/3")],
        ],
        {
            "d": "/",
            "a": "-> /d",
            "d/1": b"x",
            "b": "-> ../../d",
            "d/2": b"x",
            "e": "/",
            "e/c": "-> /../e/.",
            "e/3": b"x",
        },
        alone=True,
    ),
    "names that lead out": Case(
        [[file("../../x"), file("/abs/y"), file("a/../../z"), file("./b/.//c")]],
        {"x": b"x", "abs": "/", "abs/y": b"x", "z": b"x", "b": "/", "b/c": b"x"},
        alone=True,
    ),
    "entries for the root": Case(
        [[folder(".", 0o700, uid=5), file("x")], [folder("/", 0o711), folder("./", 0o722)]],
        {"x": b"x"},
        alone=True,
    ),
    "hard links": Case(
        [[file("f"), hardlink("a", "f"), folder("d"), hardlink("d/b", "a")]],
        {"a": b"x", "f": "= a", "d": "/", "d/b": "= a"},
    ),
    "hard link through a link": Case(
        [[folder("d"), file("d/f"), symlink("s", "d"), hardlink("z", "s/f")]],
        {"d": "/", "d/f": b"x", "s": "-> d", "z": "= d/f"},
    ),
    "hard link with odd targets": Case(
        [[file("f"), hardlink("g", "/f"), hardlink("h", "../../f"), folder("d"), hardlink("i", "d/../f")]],
        {"f": b"x", "g": "= f", "h": "= f", "i": "= f", "d": "/"},
        alone=True,
    ),
    "hard link to a symlink": Case(
        [[symlink("l", "f"), hardlink("m", "l", uid=9)]], {"l": "-> f", "m": "= l"}
    ),
    "hard link's first name hidden": Case(
        [[file("f"), hardlink("g", "f")], [file(".wh.f", b"")]], {"g": b"x"}
    ),
    "hard link's first name replaced": Case(
        [[file("f"), hardlink("g", "f"), hardlink("h", "f")], [file("f", b"new")]],
        {"f": b"new", "g": b"x", "h": "= g"},
    ),
    "hard links in an upper layer": Case(
        [LOWER, [file("f", b"up"), hardlink("g", "f"), hardlink("d/g", "f")]],
        _but(f="= d/g", g="= d/g", d__g=b"up", h=b"low"),
    ),
    "hard link's own attributes": Case(
        [[file("f", uid=1, mtime=10), hardlink("g", "f", 0o4755, uid=7, gid=8, mtime=99)]],
        {"f": b"x", "g": "= f"},
    ),
    "hard link to a device": Case(
        [[device("c", 1, 3, mtime=3), hardlink("e", "c", 0o600, uid=7, mtime=5)]],
        {"c": "char 1:3", "e": "= c"},
    ),
    "special files": Case([[device("c", 1, 3), fifo("p", uid=3)]], {"c": "char 1:3", "p": "fifo"}),
    "modes and owners": Case(
        [
            [
                file("suid", mode=0o4755),
                file("all", mode=0o7777, uid=1000, gid=1000),
                folder("sticky", 0o3777),
                symlink("s", "x", uid=1, gid=2, mtime=77),
                file("big", uid=2**32 - 2, gid=2**31),
                file("none", uid=2**32 - 1, gid=-1),
                file("over", uid=2**32 + 5),
            ],
            [folder("sticky", 0o700, uid=3, gid=4, mtime=9)],
        ],
        {
            "suid": b"x",
            "all": b"x",
            "sticky": "/",
            "s": "-> x",
            "big": b"x",
            "none": b"x",
            "over": b"x",
        },
    ),
    "times": Case(
        [
            [
                file("zero", mtime=0),
                file("negative", mtime=-5),
                file("late", mtime=2**33),
                file("too late", mtime=2**40),
                file("part", mtime=1, pax_headers={"mtime": "1.75"}),
                file("negative part", mtime=0, pax_headers={"mtime": "-1.5"}),
            ]
        ],
        dict.fromkeys(("zero", "negative", "late", "too late", "part", "negative part"), b"x"),
    ),
    "odd names": Case(
        [
            [
                file("new\nline"),
                file("\udcff\udcfe"),
                file("n" * 255),
                folder("x" * 120),
                file("x" * 120 + "/" + "y" * 200),
                symlink("s", "t" * 300),
                file("a.wh.b"),
                file("..c"),
                file("trailing/"),
                file("ü" * 60),
            ]
        ],
        {
            "new\nline": b"x",
            "\udcff\udcfe": b"x",
            "n" * 255: b"x",
            "x" * 120: "/",
            "x" * 120 + "/" + "y" * 200: b"x",
            "s": "-> " + "t" * 300,
            "a.wh.b": b"x",
            "..c": b"x",
            "trailing": b"x",
            "ü" * 60: b"x",
        },
    ),
    "sparse file": Case(
        [
            [
                file("s", b"ab", pax_headers=_sparse(10, "0,1,8,1")),
                file("n", b"", pax_headers=_sparse(3, "3,0")),
                file("after"),
            ]
        ],
        {"s": b"a" + bytes(7) + b"b\0", "n": bytes(3), "after": b"x"},
    ),
    "empty layers": Case([[], LOWER, [], []], _but()),
}

# What both engines refuse to load, though it has one sensible meaning.
OURS_ALONE: dict[str, Case] = {
    "file, then its whiteout": Case(
        [LOWER, [file("f", b"new"), file(".wh.f", b"")]], _but(f=b"new", h=b"low")
    ),
    "folder, then its whiteout": Case(
        [LOWER, [folder("d"), file("d/n"), file(".wh.d", b"")]], _but(d__a=None, d__n=b"x")
    ),
    "whiteout, then an entry in it": Case(
        [LOWER, [file(".wh.d", b""), file("d/n")]], _but(d__a=None, d__n=b"x")
    ),
    "whiteouts in what is no folder any more": Case(  # as umoci writes a folder's change into something else
        [
            [folder("a"), file("a/x"), folder("b"), file("b/x"), file("d")],
            [file("a"), file("a/.wh.x"), symlink("b", "d"), file("b/.wh.x"), file("b/x/.wh..wh..opq")],
        ],
        {"a": b"x", "b": "-> d", "d": b"x"},
    ),
    "the same name twice": Case(
        [
            [
                file("f", b"1"),
                file("f", b"2"),
                folder("d"),
                file("d/x"),
                file("d", b"3"),
                file("e"),
                folder("e"),
            ]
        ],
        {"f": b"2", "d": b"3", "e": "/"},
    ),
    "a folder twice": Case(
        [[folder("d", uid=1), file("d/x"), folder("d", 0o700, uid=2)]], {"d": "/", "d/x": b"x"}
    ),
    "folder over a link of its layer": Case(
        [[folder("d"), file("d/a"), symlink("l", "d"), file("l/1"), folder("l"), file("l/2")]],
        {"d": "/", "d/a": b"x", "d/1": b"x", "l": "/", "l/2": b"x"},
    ),
    "through a dangling link": Case(
        [[symlink("l", "d/e"), file("l/n")]], {"l": "-> d/e", "d": "/", "d/e": "/", "d/e/n": b"x"}
    ),
    "hard link to a lower file": Case(
        [LOWER, [hardlink("n", "f"), hardlink("m", "n"), hardlink("k", "l/a")]],
        _but(f=b"low", h="= f", n="= f", m="= f", k="= d/a"),
    ),
    "hard link to a lower file, replaced": Case(
        [LOWER, [hardlink("n", "f"), file("n", b"new")]], _but(n=b"new")
    ),
    "hard link to a lower file that it hides": Case(
        [LOWER, [hardlink("n", "f"), file(".wh.f", b""), file(".wh.h", b"")]], _but(f=None, h=None, n=b"low")
    ),
}

REFUSED: dict[str, list[list[Member]]] = {
    "an entry under a file": [[file("f"), file("f/n")]],
    "a hard link to a folder": [[folder("d"), hardlink("f", "d")]],
    "a hard link to a lower folder": [[folder("d")], [hardlink("f", "d")]],
    "a hard link to nothing": [[hardlink("f", "nothing")]],
    "a hard link to the root": [[hardlink("f", "..")]],
    "a whiteout of no name": [[file(".wh.")]],
    "a whiteout of its folder": [[folder("d"), file("d/.wh..")]],
    "a whiteout of the folder above": [[folder("d"), file("d/.wh...")]],
    "a symlink to nothing": [[symlink("l", "")]],
    "a symlink that is too long": [[symlink("l", "t" * 4096)]],
    "a name that is too long": [[file("n" * 256)]],
    "a folder's name that is too long": [[file("n" * 256 + "/x")]],
    "a path that is too long": [[file("n/" * 2048 + "x")]],
    "links that go round": [[symlink("a", "b"), symlink("b", "a"), file("a/x")]],
    "a member of unknown kind": [[file("x", type=b"A")]],
}


def together(cases: dict[str, Case]) -> tuple[list[list[Member]], Brief]:
    """Put cases side by side in one image, each in a folder of its own."""
    layers: list[list[Member]] = [[] for _ in range(max(len(case.layers) for case in cases.values()))]
    shows: Brief = {}
    for number, case in enumerate(cases.values()):
        home = f"case{number}"
        layers[0].append(folder(home))
        shows[home] = "/"
        for own, shared in zip(case.layers, layers, strict=False):
            shared += [_moved(member, home) for member in own]
        for name, value in case.shows.items():
            moved = isinstance(value, str) and value.startswith("= ")
            shows[f"{home}/{name}"] = f"= {home}/{value[2:]!s}" if moved else value
    return layers, shows


def _moved(member: Member, home: str) -> Member:
    info, data = copy.copy(member[0]), member[1]
    info.name = f"{home}/{info.name}"
    if info.islnk():
        info.linkname = f"{home}/{info.linkname}"
    return info, data
