"""The file format: what is read, what damage is found, and that hostile bytes only ever raise one error."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot_bottle.errors import ArtifactError
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.smolmachine.format import Artifact, Footer, checksum, read, verify
from bot_bottle.smolmachine.manifest import Manifest
from bot_bottle.smolmachine.writer import Writer

GOLDEN = bytes.fromhex(
    "534d4f4c5041434b"  # SMOLPACK
    "01000000"
    "0000000000000000"
    "0000000000000000"
    "efcdab0000000000"
    "efcdab0000000000"
    "3412000000000000"
    "efbeadde"
    "0000000000000000"
)
FILE_SIZE = 0xABCDEF + 0x1234 + 64

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sealed(assets: bytes, manifest: bytes) -> bytes:
    """Join parts into a file with a right footer, by the format's description and not by our writer."""
    crc = zlib.crc32(assets + manifest)
    sizes = (0, 0, len(assets), len(assets), len(manifest))
    return assets + manifest + struct.pack("<8sIQQQQQI8s", b"SMOLPACK", 1, *sizes, crc, b"")


def taken_apart(data: bytes) -> tuple[bytes, bytes]:
    assets, _, size = struct.unpack_from("<QQQ", data, len(data) - 64 + 28)
    return data[:assets], data[assets : assets + size]


def refused(path: Path, data: bytes) -> ArtifactError:
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        verify(path)
    return caught.value


def test_footer_has_the_golden_bytes() -> None:
    footer = Footer(assets_size=0xABCDEF, manifest_size=0x1234, checksum=0xDEADBEEF)
    assert footer.pack() == GOLDEN
    assert Footer.unpack(GOLDEN, FILE_SIZE) == footer


@pytest.mark.parametrize("version", [2, 3])
def test_older_versions_with_the_same_layout_are_read(version: int) -> None:
    assert Footer.unpack(GOLDEN[:8] + bytes([version]) + GOLDEN[9:], FILE_SIZE).version == version


@pytest.mark.parametrize("version", [0, 4, 255])
def test_unknown_versions_are_refused(version: int) -> None:
    with pytest.raises(ArtifactError, match=f"version {version}"):
        Footer.unpack(GOLDEN[:8] + bytes([version]) + GOLDEN[9:], FILE_SIZE)


@given(position=st.integers(0, 63), bit=st.integers(0, 7))
@relaxed
def test_a_flipped_bit_in_the_footer_is_found(artifact: Path, position: int, bit: int) -> None:
    data = bytearray(artifact.read_bytes())
    data[len(data) - 64 + position] ^= 1 << bit
    damaged = artifact.with_name("damaged")
    damaged.write_bytes(data)
    if position == 8 and data[len(data) - 64 + 8] == 3:
        assert verify(damaged).footer.version == 3
    else:
        with pytest.raises(ArtifactError):
            checksum(damaged)


@given(st.binary(max_size=300))
@relaxed
def test_random_bytes_are_refused_as_an_artifact(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "random", data)


@given(st.binary(max_size=300))
@relaxed
def test_random_bytes_before_a_plausible_footer_are_no_artifact(tmp_path: Path, data: bytes) -> None:
    half = len(data) // 2
    refused(tmp_path / "random", sealed(data[:half], data[half:]))


# every place of an artifact, or every seventh and all of its end
EACH = pytest.mark.parametrize("each", [7, pytest.param(1, marks=pytest.mark.slow)])


def places(length: int, each: int) -> list[int]:
    return sorted({*range(0, length, each), *range(max(0, length - 80), length)})


@EACH
def test_an_artifact_cut_anywhere_is_refused(artifact: Path, each: int) -> None:
    data = artifact.read_bytes()
    for length in places(len(data), each):
        refused(artifact.with_name("cut"), data[:length])
    refused(artifact.with_name("long"), data + b"\0")


@EACH
def test_every_flipped_byte_is_found_by_the_checksum(artifact: Path, each: int) -> None:
    data = artifact.read_bytes()
    damaged = artifact.with_name("damaged")
    for position in places(len(data) - 64, each):
        damaged.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        with pytest.raises(ArtifactError):
            checksum(damaged)


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@relaxed
def test_damage_under_a_right_checksum_is_an_error_or_harmless(
    artifact: Path, position: float, bit: int
) -> None:
    assets, manifest = taken_apart(artifact.read_bytes())
    changed = bytearray(assets)
    changed[int(position * len(changed))] ^= 1 << bit
    path = artifact.with_name("damaged")
    path.write_bytes(sealed(bytes(changed), manifest))
    with contextlib.suppress(ArtifactError):
        assert verify(path).manifest == read(artifact).manifest


@EACH
def test_assets_cut_under_a_right_checksum_are_refused(artifact: Path, each: int) -> None:
    assets, manifest = taken_apart(artifact.read_bytes())
    for length in places(len(assets), each):
        refused(artifact.with_name("cut"), sealed(assets[:length], manifest))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(data=st.data())
@relaxed
def test_a_manifest_with_any_value_in_any_place_is_refused_or_read(artifact: Path, data: Any) -> None:
    assets, raw = taken_apart(artifact.read_bytes())
    document = json.loads(raw)
    place = data.draw(st.sampled_from([document, document["assets"], document["assets"]["agent_rootfs"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    path = artifact.with_name("changed")
    path.write_bytes(sealed(assets, json.dumps(document).encode()))
    try:
        manifest = verify(path).manifest
    except ArtifactError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'{"image": "\\ud800"}'],
)
def test_an_invalid_manifest_is_refused(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path / "bad", sealed(zstandard.compress(bytes(1024)), raw))


def test_manifest_size_is_limited_before_it_is_read(tmp_path: Path) -> None:
    footer = struct.pack("<8sIQQQQQI8s", b"SMOLPACK", 1, 0, 0, 0, 0, (16 << 20) + 1, 0, b"")
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
        file.seek(0, os.SEEK_END)
        file.write(footer)
    with pytest.raises(ArtifactError, match="footer is damaged"):
        read(path)


def written(path: Path, members: dict[str, bytes], manifest: Manifest) -> Artifact:
    with path.open("wb") as file, Writer(file) as writer:
        for name, data in members.items():
            writer.begin(name, len(data))
            writer.add(data)
        writer.finish(manifest)
    return read(path)


def test_members_are_compared_with_the_manifest(artifact: Path) -> None:
    manifest = read(artifact).manifest
    sizes = manifest.assets.required()
    good = {name: bytes(size) for name, size in sizes.items()}
    path = artifact.with_name("made")
    written(path, {"extra": b"x", **good}, manifest)
    verify(path)
    layer = manifest.assets.layers[0].path
    written(path, {name: data for name, data in good.items() if name != layer}, manifest)
    with pytest.raises(ArtifactError) as lacking:
        verify(path)
    assert layer in lacking.value.why
    written(path, {**good, layer: b"short"}, manifest)
    with pytest.raises(ArtifactError) as other:
        verify(path)
    assert "another size" in other.value.why


def test_a_file_that_is_not_regular_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ArtifactError):
        read(pipe)
    with pytest.raises(ArtifactError):
        read(tmp_path)
    with pytest.raises(ArtifactError, match="cannot open"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("make_long", [False, True], ids=["window 27", "window 28"])
def test_window_is_limited_as_smolvm_limits_it(artifact: Path, make_long: bool) -> None:
    assets, manifest = taken_apart(artifact.read_bytes())
    tar = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(assets)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28 if make_long else 27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = sealed(stream.compress(tar) + stream.flush(), manifest)
    path = artifact.with_name("window")
    if make_long:
        assert "window" in refused(path, data).why
    else:
        path.write_bytes(data)
        verify(path)


def test_skippable_frames_and_bytes_after_the_tar_are_taken(artifact: Path) -> None:
    assets, manifest = taken_apart(artifact.read_bytes())
    skippable = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    path = artifact.with_name("more")
    path.write_bytes(
        sealed(skippable + assets + skippable + zstandard.compress(b"more") + skippable, manifest)
    )
    verify(path)


@pytest.mark.parametrize(
    "assets", [b"", bytes(1024), b"\x1f\x8b\x08" + bytes(100)], ids=["none", "tar", "gzip"]
)
def test_assets_that_are_not_zstd_are_refused(artifact: Path, assets: bytes) -> None:
    _, manifest = taken_apart(artifact.read_bytes())
    refused(artifact.with_name("raw"), sealed(assets, manifest))


def test_verify_reports_the_bytes_that_it_reads(artifact: Path) -> None:
    told: list[int] = []
    verify(artifact, told.append)
    assert sum(told) == artifact.stat().st_size - 64


def test_unpacked_size_is_limited(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_format, "_UNPACKED_LIMIT", 4096)
    with pytest.raises(ArtifactError, match="too large"):
        verify(artifact)


def test_a_bomb_is_verified_in_bounded_memory(artifact: Path) -> None:
    _, manifest = taken_apart(artifact.read_bytes())
    gigabyte = zstandard.ZstdCompressor(level=1).compressobj()
    piece = bytes(1 << 20)
    bomb = b"".join([*(gigabyte.compress(piece) for _ in range(1024)), gigabyte.flush()])
    path = artifact.with_name("bomb")
    path.write_bytes(sealed(taken_apart(artifact.read_bytes())[0] + bomb, manifest))
    program = (
        "import sys; from pathlib import Path\n"
        "from bot_bottle.smolmachine.format import verify\n"
        "verify(Path(sys.argv[1]))\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    assert int(done.stdout) < 60_000  # kB
