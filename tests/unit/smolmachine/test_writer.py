"""The writer, read back by the standard library and an independent reading of the format."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import struct
import tarfile
import threading
import zlib
from functools import partial

import pytest
import zstandard

from bot_bottle.errors import ArtifactError, ImageError
from bot_bottle.smolmachine.frames import segment
from bot_bottle.smolmachine.manifest import Asset, Assets, Manifest
from bot_bottle.smolmachine.writer import Writer, _header

MANIFEST = Manifest("hello", "sha256:1", "linux/amd64", 1, 512, Assets(Asset("agent-rootfs.tar", 3), ()))


def test_what_is_written_is_what_the_format_says() -> None:
    out = io.BytesIO()
    with Writer(out) as writer:
        writer.begin("agent-rootfs.tar", 3)
        writer.add_frames([zstandard.compress(b"ab"), zstandard.compress(b"c")], 3)
        writer.begin("layers/x.tar", 700)
        for data in (b"x" * 300, b"", b"y" * 200):
            writer.add(data)
        writer.add_segment(lambda: segment(b"y" * 200), 200)
        done = writer.finish(MANIFEST)

    data = out.getvalue()
    magic, version, stub, start, size, end, length, crc, rest = struct.unpack("<8sIQQQQQI8s", data[-64:])
    assert (magic, version, stub, start, rest) == (b"SMOLPACK", 1, 0, 0, bytes(8))
    assert end == size
    assert size + length + 64 == len(data) == done.size
    assert crc == zlib.crc32(data[:-64]) == done.footer.checksum
    assert done.digest.hex == hashlib.sha256(data).hexdigest()
    assert Manifest.from_json(data[end:-64]) == MANIFEST

    tar = zstandard.ZstdDecompressor().stream_reader(data[:size], read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        assert members.getnames() == ["agent-rootfs.tar", "layers/x.tar"]
        assert [member.mtime for member in members] == [0, 0]
        assert members.extractfile("agent-rootfs.tar").read() == b"abc"  # type: ignore[union-attr]
        assert members.extractfile("layers/x.tar").read() == b"x" * 300 + b"y" * 400  # type: ignore[union-attr]
    assert len(tar) % 512 == 0
    assert tar.endswith(bytes(1024))


def test_segments_begin_at_whole_blocks() -> None:
    """So that a file system can share them between files."""
    kept = segment(os.urandom(10_000))
    out = io.BytesIO()
    with Writer(out) as writer:
        writer.begin("guest", 5)
        writer.add_frames([zstandard.compress(b"guest")], 5)
        writer.begin("x", 20_100)
        writer.add_segment(lambda: kept, 10_000)
        writer.add(b"y" * 100)
        writer.add_segment(lambda: kept, 10_000)
        writer.finish(MANIFEST)
    places = [found.start() for found in re.finditer(re.escape(kept), out.getvalue())]
    assert len(places) == 2
    assert [place % 4096 for place in places] == [0, 0]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("step", [1 << 20, 333_333, 20 << 20])
def test_the_bytes_do_not_depend_on_threads_or_chunks(threads: int, step: int) -> None:
    source = random.Random(1)  # noqa: S311
    block = source.randbytes(3000)
    data = b"".join(block[source.randrange(2000) :] for _ in range(16_000))  # several frames
    digests = set()
    for how, count in ((step, threads), (len(data), 3)):
        with Writer(io.BytesIO(), threads=count) as writer:
            writer.begin("x", len(data))
            for at in range(0, len(data), how):
                writer.add(data[at : at + how])
            digests.add(writer.finish(MANIFEST).digest)
    assert len(digests) == 1


def test_segments_are_written_in_turn_however_long_each_takes() -> None:
    numbers = [segment(b"%05d" % number) for number in range(50)]
    slow = threading.Event()
    written: list[int] = []
    places: list[int] = []

    def note(number: int, offset: int, _size: int) -> None:
        written.append(number)
        places.append(offset)

    def make(number: int) -> bytes:
        if number == 49:
            slow.set()
        if number == 48:
            slow.wait(60)
        return numbers[number]

    out = io.BytesIO()
    with Writer(out, threads=2) as writer:
        writer.begin("x", 250)
        for number in range(50):
            writer.add_segment(partial(make, number), 5, partial(note, number))
        size = writer.finish(MANIFEST).footer.assets_size
    tar = zstandard.ZstdDecompressor().stream_reader(out.getvalue()[:size], read_across_frames=True).read()
    assert tar[512:762] == b"".join(b"%05d" % number for number in range(50))
    assert written == list(range(50))
    assert all(out.getvalue()[place:].startswith(one) for place, one in zip(places, numbers, strict=True))


def test_a_segment_that_cannot_be_made_fails_the_file_and_leaves_no_thread() -> None:
    def fail() -> bytes:
        raise ImageError("gone")

    before = threading.active_count()
    with pytest.raises(ImageError, match="gone"), Writer(io.BytesIO(), threads=3) as writer:
        writer.begin("x", 1)
        writer.add_segment(fail, 1)
        writer.finish(MANIFEST)
    assert threading.active_count() == before


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd"])
def test_a_member_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="wrong size"), Writer(io.BytesIO()) as writer:
        writer.begin("x", 3)
        writer.add(data)
        writer.finish(MANIFEST)


def test_large_sizes_fit_into_a_header() -> None:
    header = _header("layers/x.tar", 9 << 30)
    assert len(header) == 512
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30
