"""The `.smolmachine` file: read, checked, verified.

Source: smolvm's .smolmachine format v1. A file is a zstd-compressed tar of assets, the manifest as JSON, and
a footer of 64 bytes, little-endian:

    offset  size  field
    0       8     magic "SMOLPACK"
    8       4     version: 1; readers also take 2 and 3, which have the same layout
    12      8     stub size: 0 in a file that stands beside its program
    20      8     assets offset: 0 likewise
    28      8     assets size, compressed, in bytes
    36      8     manifest offset: equal to the assets size
    44      8     manifest size in bytes, 16 MiB at most
    52      4     CRC-32 (IEEE) over assets and manifest
    56      8     reserved: zero

smolvm does not look at the stub size and the reserved bytes; here they must be zero, because the CRC does not
cover the footer and a flipped bit should be found.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import zstandard
from msgspec import Struct

from bot_bottle.errors import ArtifactError, ImageError
from bot_bottle.host.files import disk_full
from bot_bottle.image.spec import Digest
from bot_bottle.smolmachine.crc import crc32, crc_of
from bot_bottle.smolmachine.frames import read_frames
from bot_bottle.smolmachine.manifest import MANIFEST_LIMIT, Manifest
from bot_bottle.smolmachine.unpack import decompress

MAGIC = b"SMOLPACK"
VERSION = 1
FOOTER_SIZE = 64

_READABLE = (1, 2, 3)
_LAYOUT = struct.Struct("<8sIQQQQQI8s")
_CHUNK = 1 << 20
_UNPACKED_LIMIT = 128 << 30  # bytes; smolvm unpacks no more


def _ignore(_count: int) -> None:
    pass


def _pass_over(_name: str, _pieces: Iterator[bytes]) -> None:
    pass


class Footer(Struct, frozen=True):
    """The last 64 bytes. Sizes are in bytes; `checksum` is the CRC-32 over assets and manifest."""

    assets_size: int
    manifest_size: int
    checksum: int
    version: int = VERSION

    @property
    def covered(self) -> int:
        """Number of bytes that the checksum covers: all before the footer."""
        return self.assets_size + self.manifest_size

    def pack(self) -> bytes:
        """Return the footer's 64 bytes."""
        return _LAYOUT.pack(
            MAGIC,
            self.version,
            0,
            0,
            self.assets_size,
            self.assets_size,
            self.manifest_size,
            self.checksum,
            bytes(8),
        )

    @classmethod
    def unpack(cls, raw: bytes, file_size: int) -> Footer:
        """Parse a footer from an untrusted file of `file_size` bytes. Raises ArtifactError."""
        if len(raw) != FOOTER_SIZE or not raw.startswith(MAGIC):
            raise ArtifactError("not a .smolmachine file", why="it has no footer at its end")
        _, version, stub, assets_offset, assets, offset, manifest, checksum, reserved = _LAYOUT.unpack(raw)
        if version not in _READABLE:
            raise ArtifactError(
                f"the artifact has the unknown format version {version}",
                next_step="make it again, or use a newer bot-bottle",
            )
        if stub or assets_offset:
            raise ArtifactError("the artifact is part of a program", why="only a file of its own can be read")
        if any(reserved) or offset != assets:
            raise ArtifactError(
                "the artifact's footer is damaged", why="its offsets and sizes contradict each other"
            )
        if manifest > MANIFEST_LIMIT:
            raise ArtifactError(
                "the artifact's footer is damaged", why=f"a manifest of {manifest} bytes is too large"
            )
        if assets + manifest + FOOTER_SIZE != file_size:
            raise ArtifactError(
                "the artifact has the wrong size",
                why=f"it should have {assets + manifest + FOOTER_SIZE} bytes and has {file_size}",
            )
        return cls(assets, manifest, checksum, version)


class Artifact(Struct, frozen=True):
    """The footer and manifest of a `.smolmachine` file, with its path and size in bytes."""

    path: Path
    size: int
    footer: Footer
    manifest: Manifest


def read(path: Path) -> Artifact:
    """Read footer and manifest; the assets are not read or checked. Raises ArtifactError."""
    with _opened(path) as fd:
        return _read(fd, path)


def checksum(path: Path) -> Artifact:
    """Compare the CRC-32 with the file's bytes, which finds accidental damage, at the speed of reading.

    Raises ArtifactError.
    """
    with _opened(path) as fd:
        artifact = _read(fd, path)
        _compare(artifact, crc_of(fd, artifact.footer.covered))
        return artifact


def verify(
    path: Path,
    on_bytes: Callable[[int], None] = _ignore,
    on_layer: Callable[[str, Iterator[bytes]], None] = _pass_over,
) -> Artifact:
    """Check all of a file: footer, manifest, CRC-32, every frame, and the tar members in the manifest.

    It is read once, in bounded memory. `on_bytes` is called with the number of bytes read from the file,
    `on_layer` with each layer's name and its tar in pieces, before the checksum is known. Raises
    ArtifactError.
    """
    with _opened(path) as fd:
        artifact = _read(fd, path)
        footer = artifact.footer
        frames = read_frames(
            lambda count, at: os.pread(fd, min(count, footer.assets_size - at), at), footer.assets_size
        )
        source = _Source(fd, footer.assets_size, on_bytes)
        with closing(decompress(source.read, frames)) as pieces:
            _check_members(pieces, artifact.manifest, on_layer)
        source.extend(footer.manifest_size)
        while source.read(_CHUNK):
            pass
        _compare(artifact, source.crc)
        return artifact


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        # opening a FIFO in the file's place must not block
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot open {path}", why=str(error)) from error
    try:
        yield fd
    except ArtifactError as error:
        error.message = f"{error.message}: {path}"
        raise
    except OSError as error:
        if disk_full(error):
            raise  # the caller's own file, not this one
        raise ArtifactError(f"cannot read {path}", why=str(error)) from error
    finally:
        os.close(fd)


def footer_of(fd: int) -> Footer:
    """Read the footer of an open file. Raises ArtifactError, OSError."""
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise ArtifactError("not a .smolmachine file", why="it is not a regular file")
    return Footer.unpack(os.pread(fd, FOOTER_SIZE, max(0, facts.st_size - FOOTER_SIZE)), facts.st_size)


def _read(fd: int, path: Path) -> Artifact:
    footer = footer_of(fd)
    raw = os.pread(fd, footer.manifest_size, footer.assets_size)
    return Artifact(path, footer.covered + FOOTER_SIZE, footer, Manifest.from_json(raw))


def _compare(artifact: Artifact, crc: int) -> None:
    if crc != artifact.footer.checksum:
        raise ArtifactError(
            "the artifact is damaged",
            why=f"its checksum is {crc:08x} and should be {artifact.footer.checksum:08x}",
            next_step="make it again",
        )


def _check_members(
    pieces: Iterator[bytes], manifest: Manifest, on_layer: Callable[[str, Iterator[bytes]], None]
) -> None:
    wanted = manifest.assets.required()
    layers = {layer.path for layer in manifest.assets.layers}
    from bot_bottle.tar.pieces import PieceStream  # only here: a manifest is read without
    from bot_bottle.tar.reader import Headers

    stream = PieceStream(_limited(pieces))
    headers = Headers(stream, "the artifact's tar", strict_end=True)
    try:
        for member in headers:
            if not member.isreg() or member.name not in wanted:
                continue
            if wanted.pop(member.name) != member.size:
                raise ArtifactError(
                    "the artifact is damaged", why=f"{member.name} has another size than stated"
                )
            if member.name in layers:
                on_layer(member.name, headers.data())
        while stream.skip(_CHUNK):  # data after the end of the tar must still be sound
            pass
    except ImageError as error:
        raise ArtifactError(error.message, why=error.why) from error
    except zstandard.ZstdError as error:
        raise ArtifactError("the artifact's assets are damaged", why=str(error)) from error
    if wanted:
        raise ArtifactError("the artifact is damaged", why=f"it lacks {', '.join(sorted(wanted)[:5])}")


class _Source:
    """Bytes of the file in order, up to a limit, and their CRC."""

    def __init__(self, fd: int, size: int, on_bytes: Callable[[int], None]) -> None:
        self.crc = 0
        self._fd, self._left, self._at = fd, size, 0
        self._on_bytes = on_bytes

    def read(self, count: int) -> bytes:
        data = os.pread(self._fd, min(count, self._left), self._at)
        self._at += len(data)
        self._left -= len(data)
        self.crc = crc32(data, self.crc)
        self._on_bytes(len(data))
        return data

    def extend(self, count: int) -> None:
        """Raise the limit by `count` bytes."""
        self._left += count


def _limited(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces up to the limit that smolvm has."""
    left = _UNPACKED_LIMIT
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise ArtifactError(
                "the artifact is too large", why=f"it unpacks to over {_UNPACKED_LIMIT} bytes"
            )
        yield piece


def digest_of(path: Path) -> Digest:
    """Return a file's SHA-256. Raises OSError."""
    with path.open("rb") as file:
        return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
