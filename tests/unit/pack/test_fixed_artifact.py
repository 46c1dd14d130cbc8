"""One image whose artifact never changes: whoever changes what is made of it raises FLATTEN_VERSION."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import zstandard
from tests.support.crafted import file, folder, hardlink, layer, saved, symlink, xattrs

from bot_bottle.image.spec import Platform
from bot_bottle.pack.artifact import PackResult
from bot_bottle.rootfs import FLATTEN_VERSION
from bot_bottle.smolmachine.format import VERSION, read
from bot_bottle.smolmachine.frames import COMPRESSION

Pack = Callable[..., PackResult]

LAYERS = (
    layer(
        [
            folder("etc"),
            file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
            file("bin/sh", b"#!" * 5000),
            hardlink("bin/ash", "bin/sh"),
            symlink("lib", "usr/lib"),
            file("x", b"x" * 512, pax_headers=xattrs(user__k="v")),
        ]
    ),
    layer(
        [
            file("etc/.wh.passwd", b""),
            file("etc/group", b"root:x:0:\n"),
            file("big", bytes(range(256)) * 40_000),
        ]
    ),
)
VERSIONS = (3, 1)  # of flattening and of the format
CONTENT = "6ae0cec04ba73ef3a7254eaa083f746c37f7d47055c1e5c8470efd7db7a909fe"
ARTIFACT = "a8bc9b8fa58e200bd639050d85c43dc5baff4bea4f62a5f8ec390b6d5c843fed"
# releases of zstd that give it; another one may compress the same bytes otherwise
MEASURED = ("zstd 1.5.6 level 3", "zstd 1.5.7 level 3")


def test_a_fixed_archive_gives_a_fixed_artifact(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "image.tar").write_bytes(saved(*LAYERS))
    out = tmp_path / "made.smolmachine"
    amd64 = Platform.parse("linux/amd64")
    made = pack(tmp_path / "image.tar", out, platform=amd64, options={"foreign": True})
    assets, manifest = content(out)
    assert (FLATTEN_VERSION, VERSION) == VERSIONS
    assert hashlib.sha256(assets + manifest).hexdigest() == CONTENT
    if COMPRESSION in MEASURED:
        assert made.digest.hex == ARTIFACT


def content(artifact: Path) -> tuple[bytes, bytes]:
    """Return what is in an artifact: the tar of its assets, and its manifest."""
    data, footer = artifact.read_bytes(), read(artifact).footer
    end = footer.assets_size
    tar = zstandard.ZstdDecompressor().stream_reader(data[:end], read_across_frames=True).read()
    return tar, data[end : end + footer.manifest_size]
