"""The writer, read back by the standard library and an independent reading of the format."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import tarfile
import zlib

import pytest
import zstandard

from bot_bottle.errors import ArtifactError
from bot_bottle.smolmachine.manifest import Asset, Assets, Manifest
from bot_bottle.smolmachine.writer import Writer

MANIFEST = Manifest("hello", "sha256:1", "linux/amd64", 1, 512, Assets(Asset("agent-rootfs.tar", 3), ()))


def test_what_is_written_is_what_the_format_says() -> None:
    out = io.BytesIO()
    writer = Writer(out)
    writer.compressed_member("agent-rootfs.tar", 3, [zstandard.compress(b"abc")])
    writer.member("layers/x.tar", 700, [b"x" * 300, b"", b"y" * 400])
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


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("step", [1 << 20, 333_333])
def test_the_bytes_do_not_depend_on_threads_or_chunks(threads: int, step: int) -> None:
    source = random.Random(1)  # noqa: S311
    block = source.randbytes(3000)
    data = b"".join(block[source.randrange(2000) :] for _ in range(16_000))  # several jobs of a thread
    out = io.BytesIO()
    writer = Writer(out, threads=threads)
    writer.member("x", len(data), (data[at : at + step] for at in range(0, len(data), step)))
    digest = writer.finish(MANIFEST).digest
    again = Writer(io.BytesIO(), threads=3)
    again.member("x", len(data), [data])
    assert again.finish(MANIFEST).digest == digest


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd"])
def test_a_member_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="as long as"):
        Writer(io.BytesIO()).member("x", 3, [data])


def test_large_sizes_fit_into_a_header() -> None:
    out = io.BytesIO()
    writer = Writer(out)
    with pytest.raises(ArtifactError):
        writer.member("layers/x.tar", 9 << 30, [b""])
    writer._end_frame()
    header = zstandard.ZstdDecompressor().stream_reader(out.getvalue()).read(512)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30
