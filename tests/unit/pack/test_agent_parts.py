"""Parts of an agent's large files: found in an engine's own layer of them, and the artifact is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.crafted import file, folder, layer, saved

from bot_bottle.image.archive import open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.agent_parts import SEGMENTS, segment_maker, store_parts, storing_parts
from bot_bottle.pack.artifact import pack_native
from bot_bottle.pack.chunk_index import Parts
from bot_bottle.rootfs.flatten import FLATTEN_VERSION, flatten
from bot_bottle.smolmachine.writer import Part
from bot_bottle.vm.guest_rootfs import Guest

LARGE = os.urandom(9_000_000)  # a file of three parts
PLACE = "opt/bot-bottle/packages/mine"
FILES = (file(f"{PLACE}/agent", LARGE), file(f"{PLACE}/small", b"small"))


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    """The file of segments of a layer that has no more than FILES."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/layer.tar").write_bytes(layer([folder(PLACE), *FILES]))
    store_parts(tmp_path / "agent/layer.tar")
    return tmp_path / "agent" / SEGMENTS


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of an image that has them elsewhere in a layer, and the same file in another place."""
    path = tmp_path / "image.tar"
    own = [folder("etc"), file("etc/first", b"first" * 1000), folder(PLACE)]
    path.write_bytes(saved(layer([file("copy", LARGE)]), layer([*own, *FILES])))
    return path


def found(archive: Path, segments: Path) -> list[bool]:
    """Return for each part of the large files whether it is found."""
    with open_archive(archive) as image, Parts(archive.parent / "none", [segments]) as parts:
        root = flatten(image)
        with root.data() as data:
            return [
                isinstance(segment_maker(each, b"".join(each.pieces(data)), parts)(), Part)
                for each in root.stretches()
                if each.stop is not None
            ]


def packed(archive: Path, guest: Guest, agents: list[Path]) -> Digest:
    out = archive.parent / f"{len(agents)}.smolmachine"
    out.unlink(missing_ok=True)
    with open_archive(archive) as image, Parts(archive.parent / "none", agents) as parts:
        root = flatten(image)
        return pack_native(image, root, guest, out, flatten_version=FLATTEN_VERSION, parts=parts).digest


def test_they_are_found_by_content_and_the_artifact_is_the_same(
    archive: Path, segments: Path, guest: Guest
) -> None:
    assert found(archive, segments) == [False] * 3 + [True] * 3
    digest = packed(archive, guest, [])
    assert packed(archive, guest, [segments]) == digest
    data = bytearray(segments.read_bytes())
    data[5000] ^= 1  # of the first
    segments.write_bytes(data)
    assert found(archive, segments) == [False] * 4 + [True] * 2
    assert packed(archive, guest, [segments]) == digest
    segments.write_bytes(data[:-4096])
    assert not any(found(archive, segments))


def test_they_are_stored_once_and_only_if_there_is_a_sound_layer(segments: Path, tmp_path: Path) -> None:
    before = segments.stat()
    store_parts(segments.with_name("layer.tar"))
    assert (segments.stat().st_ino, segments.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    for each in (segments, segments.with_suffix(".parts")):
        each.unlink()
    store_parts(segments.with_name("layer.tar"), lambda: True)
    assert [path.name for path in segments.parent.iterdir()] == ["layer.tar"]
    with pytest.raises(ZeroDivisionError), storing_parts(segments.with_name("layer.tar")):
        raise ZeroDivisionError
    assert not list(segments.parent.glob("*.partial"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/layer.tar").write_bytes(b"x" * 1000)
    store_parts(tmp_path / "other/layer.tar")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["layer.tar"]
