"""What is in an artifact, read by the format's rules and by nothing of the product's."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import zstandard

_FOOTER = struct.Struct("<8sIQQQQQI8s")


def _parts(artifact: Path) -> tuple[bytes, bytes]:
    data = artifact.read_bytes()
    magic, version, _, _, assets, _, manifest, _, _ = _FOOTER.unpack(data[-64:])
    assert (magic, version) == (b"SMOLPACK", 1)
    return data[:assets], data[assets : assets + manifest]


def manifest_of(artifact: Path) -> dict[str, Any]:
    """The manifest."""
    document: dict[str, Any] = json.loads(_parts(artifact)[1])
    return document


def root_of(artifact: Path) -> dict[str, bytes]:
    """The regular files of the root filesystem: content by name, without a leading `./` or `/`."""
    assets = zstandard.ZstdDecompressor().stream_reader(_parts(artifact)[0], read_across_frames=True)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(assets.read())) as outer:
        [layer] = [name for name in outer.getnames() if name.startswith("layers/") and name.endswith(".tar")]
        with tarfile.open(fileobj=outer.extractfile(layer)) as root:
            for member in root:
                if member.isreg() or member.islnk():
                    file = root.extractfile(member)
                    assert file is not None
                    found[member.name.removeprefix("./").lstrip("/")] = file.read()
    return found


def listed(parts: Path) -> dict[bytes, tuple[int, int]]:
    """The parts in a list: offset and size by what they are found by."""
    data = parts.read_bytes()
    return {key: (offset, size) for key, offset, size in struct.iter_unpack("<32sQI", data[20:-4])}
