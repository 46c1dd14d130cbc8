"""Hashes made while an archive is written: whatever it holds, each is that of the range it is found under."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.registry.hashing import MemberHashes

LONG = "folder/" * 40 + "layer.tar"


def hashes(path: Path, data: bytes, piece: int) -> dict[tuple[int, int], str]:
    """Write a file piece by piece while it is followed; give what was found."""
    with path.open("wb", buffering=0) as file, MemberHashes(path) as followed:
        for at in range(0, len(data), piece):
            file.write(data[at : at + piece])
            followed.grown(len(data[at : at + piece]))
    path.unlink()
    return followed.known


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [100, 512, 70_000, 1 << 20])
def test_every_member_is_hashed(tmp_path: Path, form: int, piece: int) -> None:
    content = {"empty": b"", "one": b"x", "block": bytes(512), "large": bytes(range(256)) * 2000}
    if form != tarfile.USTAR_FORMAT:
        content[LONG] = b"long"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        places = {(member.offset_data, member.size): member.name for member in tar.getmembers()}
    found = hashes(tmp_path / "image.tar", buffer.getvalue(), piece)
    assert {name for place, name in places.items() if place in found} == content.keys() - {"empty"}
    for place, name in places.items():
        assert found.get(place, hashlib.sha256().hexdigest()) == hashlib.sha256(content[name]).hexdigest()


@given(
    data=st.binary(max_size=3000), sizes=st.lists(st.integers(0, 2000), max_size=4), piece=st.integers(1, 900)
)
def test_no_hash_is_of_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, sizes: list[int], piece: int
) -> None:
    headers = [tarfile.TarInfo("a").tobuf()[:124] + b"%011o\0" % size + bytes(376) for size in sizes]
    data = data[:1000].join([b"", *headers]) + data
    found = hashes(tmp_path_factory.getbasetemp() / "followed.tar", data, piece)
    for (offset, size), digest in found.items():
        assert hashlib.sha256(data[offset : offset + size]).hexdigest() == digest
        assert offset + size <= len(data)


def test_a_writer_that_fails_ends_the_follower(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    with pytest.raises(OSError, match="full"), MemberHashes(path) as followed:
        path.write_bytes(bytes(1 << 20))
        followed.grown(1 << 20)
        path.unlink()
        raise OSError("full")
