"""Layers are read as they were written, or not at all: gzip and zstd streams of every sort."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from bot_bottle.errors import ImageError
from bot_bottle.image.layers import CHUNK, Blob, Layer
from bot_bottle.image.spec import Digest

NOISE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(200))
CONTENT = NOISE + b"the same words, " * 20_000
WHOLE = gzip.compress(CONTENT, 6, mtime=0)
HEAD, DEFLATED, TAIL = WHOLE[:10], WHOLE[10:-8], WHOLE[-8:]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "blob", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def layer(fd: int, data: bytes, content: bytes) -> Layer:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    return Layer(Digest.of(content), Digest.of(data), Blob(fd, 0, len(data)))


def flagged(flags: int, fields: bytes) -> bytes:
    """Return the stream with optional fields in its header (RFC 1952, 2.3.1)."""
    return HEAD[:3] + bytes([flags]) + HEAD[4:] + fields + DEFLATED + TAIL


def checked_header() -> bytes:
    head = HEAD[:3] + b"\x02" + HEAD[4:]
    return head + struct.pack("<H", zlib.crc32(head) & 0xFFFF) + DEFLATED + TAIL


def deflated(strategy: int, *, flush: int | None = None) -> bytes:
    made = zlib.compressobj(6, zlib.DEFLATED, 31, 8, strategy)
    data = made.compress(CONTENT[:7000])
    data += made.flush(flush) if flush is not None else b""
    return data + made.compress(CONTENT[7000:]) + made.flush()


EMPTY = gzip.compress(b"")
GOOD = {
    "one": (WHOLE, 1),
    "two members": (WHOLE * 2, 2),
    "a hundred members": (WHOLE * 100, 100),
    "empty members": (EMPTY + WHOLE + EMPTY, 1),
    "zeros after it": (WHOLE + bytes(3000), 1),
    "zeros between": (WHOLE + bytes(512) + WHOLE, 2),
    "extra field": (flagged(4, b"\3\0abc"), 1),
    "name and comment": (flagged(8 | 16, b"name\0comment\0"), 1),
    "checksum of the header": (checked_header(), 1),
    "stored": (gzip.compress(CONTENT, 0), 1),
    "fixed codes": (deflated(zlib.Z_FIXED), 1),
    "flushed": (deflated(zlib.Z_DEFAULT_STRATEGY, flush=zlib.Z_FULL_FLUSH), 1),
    "zstd": (zstandard.compress(CONTENT), 1),
    "zstd frames": (zstandard.compress(CONTENT) * 3, 3),
    "nothing": (EMPTY, 0),
}


@pytest.mark.parametrize(("data", "times"), GOOD.values(), ids=GOOD)
def test_what_was_written_is_read(fd: int, data: bytes, times: int) -> None:
    it = layer(fd, data, CONTENT * times)
    for verify in (True, False):
        with it.open(verify=verify) as stream:
            assert stream.read() == CONTENT * times
    with it.open() as stream:
        assert stream.skip(len(CONTENT) * times) == len(CONTENT) * times
        assert not stream.read(1)


BROKEN = {
    "words after it": WHOLE + b"words",
    "a byte after it": WHOLE + b"w",
    "zeros and a byte after it": WHOLE + bytes(100) + b"w",
    "half a header after it": WHOLE + WHOLE[:5],
    "another checksum": HEAD + DEFLATED + b"abcd" + TAIL[4:],
    "another length": HEAD + DEFLATED + TAIL[:4] + b"abcd",
    "another checksum of the second": WHOLE + HEAD + DEFLATED + b"abcd" + TAIL[4:],
    "another method": HEAD[:2] + b"\x07" + HEAD[3:] + DEFLATED + TAIL,
    "no deflate stream": HEAD + b"\xff" * 100 + TAIL,
    "no checksum": HEAD + DEFLATED,
    "half a checksum": WHOLE[:-6],
    "only a header": HEAD,
    "half of it": WHOLE[: len(WHOLE) // 2],
    "the second one cut": WHOLE + WHOLE[:-100],
    "an extra field without end": flagged(4, b"\xff\xff"),
    "zstd cut": zstandard.compress(CONTENT)[:-20],
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused(fd: int, data: bytes) -> None:
    it = layer(fd, data, CONTENT)
    with pytest.raises(ImageError, match=str(it.diff_id)), it.open() as stream:
        stream.read()


def test_a_truncated_or_changed_layer_is_an_image_error(fd: int) -> None:
    data = gzip.compress(b"content", mtime=0)
    changes = [data[:end] for end in range(3, len(data))]
    for place in range(10, len(data)):
        for bit in range(8):
            changes.append(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
    unseen = []
    for changed in changes:
        blob = layer(fd, changed, b"content").blob
        try:
            with Layer(Digest.of(b"other"), None, blob).open(verify=False) as stream:
                unseen.append(stream.read())
        except ImageError:
            continue
    # of the byte in which the deflate stream ends, some bits have no meaning
    assert unseen == [b"content"] * len(unseen)
    assert len(unseen) < 8


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_layer_whose_content_is_not_what_its_digests_say_is_damaged(fd: int, compress: object) -> None:
    data = compress(CONTENT)  # type: ignore[operator]
    it = layer(fd, data, CONTENT)
    for diff_id, digest in ((Digest.of(b""), it.digest), (it.diff_id, Digest.of(b""))):
        with pytest.raises(ImageError, match="damaged"), Layer(diff_id, digest, it.blob).open() as stream:
            stream.read()


def test_a_bomb_takes_no_memory(fd: int) -> None:
    size = 200 << 20
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = b"".join(squeezed.compress(bytes(CHUNK)) for _ in range(size // CHUNK)) + squeezed.flush()
    sha256 = hashlib.sha256()
    for _ in range(size // CHUNK):
        sha256.update(bytes(CHUNK))
    os.pwrite(fd, data, 0)
    it = Layer(Digest(f"sha256:{sha256.hexdigest()}"), None, Blob(fd, 0, len(data)))
    tracemalloc.start()
    try:
        with it.open() as stream:
            assert stream.skip(size) == size
            assert not stream.read(1)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
