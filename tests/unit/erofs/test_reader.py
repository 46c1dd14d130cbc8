"""The reader on images that were damaged on purpose: an answer or an ArtifactError, never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.crafted import file, folder, symlink
from tests.support.erofs import image_of

from bot_bottle.erofs.reader import read_file
from bot_bottle.errors import ArtifactError


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = [
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), file("etc/large", b"x" * 10_000), folder("empty"),
        symlink("link", "etc/passwd"), symlink("to", "etc"), *(file(f"many/{n}") for n in range(600)),
    ]  # fmt: skip
    return image_of(tmp_path_factory.mktemp("image"), members)


def test_reads_regular_files_alone(image: Path) -> None:
    assert read_file(image, b"etc/passwd", 100) == b"root:x:0:0::/:/bin/sh\n"
    for name in (b"etc", b"none", b"etc/none", b"link", b"to/passwd", b"etc/passwd/x", b"empty/x", b""):
        assert read_file(image, name, 100) is None
    assert read_file(image, b"etc/large", 9_999) is None
    assert read_file(image, b"etc/large", 10_000) == b"x" * 10_000


@pytest.mark.parametrize("size", [0, 1000, 1030, 1200, 4096, 5000])
def test_a_short_image_is_damaged(tmp_path: Path, image: Path, size: int) -> None:
    short = tmp_path / "short"
    short.write_bytes(image.read_bytes()[:size])
    with pytest.raises(ArtifactError, match="damaged"):
        read_file(short, b"etc/passwd", 100)


def test_another_file_is_no_image(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(range(256)) * 32)
    with pytest.raises(ArtifactError, match="damaged"):
        read_file(other, b"etc/passwd", 100)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=20)
)
def test_any_bytes_in_its_place_are_an_answer_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, image: Path, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(image.read_bytes())
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    changed = tmp_path_factory.mktemp("changed") / "i"
    changed.write_bytes(data)
    for name in (b"etc/passwd", b"many/599"):
        try:
            found = read_file(changed, name, 1 << 20)
        except ArtifactError:
            continue
        assert found is None or len(found) <= 1 << 20
