"""The quick ways to read and to write a header do what the standard library does."""

from __future__ import annotations

import io
import tarfile

from hypothesis import example, given
from hypothesis import strategies as st

from bot_bottle.errors import ImageError
from bot_bottle.rootfs.tar_headers import header, header_size
from bot_bottle.rootfs.tree import Folder, Inode
from bot_bottle.tar import reader
from bot_bottle.tar.reader import BLOCK, Headers

FIELDS = ("name", "type", "linkname", "mode", "uid", "gid", "size", "mtime", "devmajor", "devminor")
KINDS = [b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"]
NAMES = st.binary(min_size=1, max_size=110).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))
NUMBERS = st.integers(0, 0o7777777) | st.integers(0, 2**33)


class Stream:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.read = self._file.read

    def skip(self, count: int) -> int:
        return len(self._file.read(count))


def facts(info: tarfile.TarInfo) -> list[object]:
    return [getattr(info, name) for name in FIELDS]


@given(st.data(), NAMES, st.sampled_from(KINDS), NAMES, NUMBERS, NUMBERS, NUMBERS)
def test_a_header_is_read_as_the_standard_library_reads_it(
    data: st.DataObject, name: bytes, kind: bytes, link: bytes, uid: int, size: int, mtime: int
) -> None:
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.type, info.uid, info.size, info.mtime = kind, uid, size, mtime
    info.linkname = link.decode("utf-8", "surrogateescape")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-BLOCK:])
    if data.draw(st.booleans()):  # what is damaged is told, or means the same to both
        block[data.draw(st.integers(0, BLOCK - 1))] ^= data.draw(st.integers(1, 255))
    plain = reader._plain(bytes(block))
    if plain is not None:
        wanted = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
        assert facts(plain) == facts(wanted)


def test_usual_headers_are_read_the_quick_way() -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        for kind in (b"0", b"1", b"2", b"5"):
            info = tarfile.TarInfo("usr/bin/name")
            info.type, info.uname = kind, "root"
            block = info.tobuf(format)
            assert reader._plain(block) is not None
            for at in (0, 101, 150, 300):
                changed = bytearray(block)
                changed[at] ^= 1
                assert reader._plain(bytes(changed)) is None
                try:
                    list(Headers(Stream(bytes(changed)), "it"))
                except ImageError:
                    continue
                raise AssertionError(at)


@given(
    NAMES, st.sampled_from([b"0", b"2", b"5"]), NAMES, NUMBERS, NUMBERS, st.integers(0, 0o7777), st.booleans()
)
@example(b"n" * 100, b"0", b"x", 0o7777777, 0o77777777777, 0, True)
@example(b"n" * 99, b"5", b"x", 0o10000000, 0o100000000000, 0, False)
def test_a_header_is_written_as_the_standard_library_writes_it(
    name: bytes, kind: bytes, link: bytes, uid: int, mtime: int, mode: int, linked: bool
) -> None:
    node = Folder() if kind == b"5" else Inode(kind)
    node.mode, node.uid, node.gid, node.mtime = mode, uid, 7, mtime
    node.size = uid if kind == b"0" else 0
    node.link = link if kind == b"2" else b""
    target = link if linked and kind != b"5" else None
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.mode, info.uid, info.gid, info.mtime = mode, uid, 7, mtime
    info.type = b"1" if target is not None else kind
    info.linkname = (node.link if target is None else target).decode("utf-8", "surrogateescape")
    info.size = node.size if target is None else 0
    wanted = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    assert header(name, node, target) == wanted
    assert header_size(name, node, target) == len(wanted)
