"""Layer blobs: opened, decompressed, and verified while they are read.

Source: OCI image-spec v1.1, layer.md and config.md (`rootfs.diff_ids` are digests of the uncompressed tar).
The compression is recognized by its magic number, as media types are not always right.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import zstandard
from msgspec import Struct

from bot_bottle.errors import ImageError
from bot_bottle.image.gunzip import GZIP_MAGIC, GzipError, open_gzip
from bot_bottle.image.hashing import BackgroundHash
from bot_bottle.image.spec import Digest

if TYPE_CHECKING:
    from types import TracebackType

CHUNK = 1 << 20  # bytes

_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte of 0x50 to 0x5f; parallel compressors begin with one
_MAGIC = 6  # bytes, at most
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}
_BROKEN = (OSError, EOFError, GzipError, zstandard.ZstdError)


class Blob(Struct, frozen=True):
    """A range of bytes in an open file. The file stays open as long as the archive does."""

    fd: int
    offset: int
    size: int

    def pread(self, count: int, position: int) -> bytes:
        """Return up to `count` bytes from `position`, within the range."""
        return os.pread(self.fd, max(0, min(count, self.size - position)), self.offset + position)


class _Raw:
    """A blob read in order, and hashed meanwhile if a digest is given."""

    def __init__(self, blob: Blob, digest: Digest | None) -> None:
        self._blob = blob
        self._position = 0
        self._hash = BackgroundHash(digest.algorithm) if digest else None

    def read(self, count: int = -1) -> bytes:
        count = CHUNK if count < 0 else count
        data = self._blob.pread(count, self._position)
        if not data and count and self._position < self._blob.size:
            raise EOFError("the file has become shorter")
        self._position += len(data)
        if self._hash is not None:
            self._hash.update(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def skip(self, count: int) -> int:
        count = min(count, self._blob.size - self._position)
        self._position += count
        return count

    def close(self) -> None:
        """Stop the thread that hashes. The file belongs to the archive."""
        if self._hash is not None:
            self._hash.close()

    def hexdigest(self) -> str | None:
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest() if self._hash is not None else None


class LayerReader(Protocol):
    """A layer's uncompressed tar stream, read in order. A context manager."""

    def read(self, count: int = -1, /) -> bytes:
        """Return `count` bytes, fewer only at the end; without a count, all the rest."""

    def some(self, limit: int, /) -> bytes:
        """Return the bytes at hand, `limit` at most; b"" only at the end. The cheapest way to read."""

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes; return how many there were."""

    def close(self) -> None:
        """Close what was opened."""

    def __enter__(self) -> LayerReader:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""


class Verification(Struct):
    """Whether a layer has been read to its end, and its digests were right."""

    done: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image. `diff_id` is stated by the config, `digest` by a manifest.

    `opener`, called with whether to verify, opens it where its bytes are not the blob's. `headers` opens it
    for readers that only want the tar's headers; these are right where it is `verified`. Where it is `sound`,
    or as soon as its `verification` is done, it need not be verified again. An `immutable` one is the same
    each time it is read; others have to be verified when their data is used.
    """

    diff_id: Digest
    digest: Digest | None
    blob: Blob = field(repr=False)
    opener: Callable[[bool], LayerReader] | None = field(default=None, repr=False, compare=False)
    headers: Callable[[], LayerReader] | None = field(default=None, repr=False, compare=False)
    verified: bool = field(default=False, compare=False)
    sound: bool = field(default=False, compare=False)
    immutable: bool = field(default=False, compare=False)
    verification: Verification = field(default_factory=Verification, repr=False, compare=False)

    def open(self, *, verify: bool = True) -> LayerReader:
        """Open the uncompressed tar stream, to be read in order.

        Reading it to its end verifies the blob's digest and the diff_id, unless `verify` is off (for a second
        reading). Raises ImageError, naming the layer, for data that cannot be decompressed or does not have
        these digests.
        """
        return self.opener(verify) if self.opener else LayerStream(self, verify=verify)

    def open_headers(self) -> LayerReader:
        """Open it for reading headers and skipping what is between them. Nothing is verified."""
        return self.headers() if self.headers else self.open(verify=False)

    @property
    def compressed(self) -> bool:
        """Whether it has to be decompressed each time it is read."""
        return self.opener is None and _compression(self.blob.pread(_MAGIC, 0)) is not None

    @property
    def is_sound(self) -> bool:
        """Whether all of it has been verified."""
        return self.sound or self.verification.done

    @property
    def size(self) -> int:
        """The blob's size in bytes, as it is stored."""
        return self.blob.size

    def __str__(self) -> str:
        return f"layer {self.diff_id}"


class Layered(Protocol):
    """Anything with layers, such as an image."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, bottom first."""


class Layers(NamedTuple):
    """Layers and nothing else."""

    layers: tuple[Layer, ...]


class RawSource(Protocol):
    """The bytes of a layer's tar where they are not those of a blob."""

    def read(self, count: int = -1, /) -> bytes:
        """Return some bytes, `count` at most; b"" only at the end. Raises OSError, EOFError."""

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes; return how many there were."""

    def close(self) -> None:
        """Close what was opened."""


class LayerStream:
    """The uncompressed bytes of a layer, in order: from its blob, or from `source`."""

    def __init__(self, layer: Layer, *, verify: bool, source: RawSource | None = None) -> None:
        self._layer = layer
        blob_digest = layer.digest if verify and layer.digest != layer.diff_id else None
        self._raw = source or _Raw(layer.blob, blob_digest)
        self._source = self._raw if source else self._decompressed()
        self._hash = BackgroundHash(layer.diff_id.algorithm) if verify else None
        self._plain = self._source is self._raw
        self._block = b""
        self._at = 0
        self._ended = False

    def read(self, count: int = -1, /) -> bytes:
        """Return `count` bytes, fewer only at the end; without a count, all the rest."""
        end = self._at + count
        if count >= 0 and end <= len(self._block):
            data = self._block[self._at : end]
            self._at = end
            return data
        parts = []
        while count and (part := self.some(count if count > 0 else CHUNK)):
            parts.append(part)
            count -= len(part) if count > 0 else 0
        return b"".join(parts)

    def some(self, limit: int, /) -> bytes:
        """Return the bytes at hand, `limit` at most; b"" only at the end. The cheapest way to read."""
        if self._at >= len(self._block) and not self._fill():
            return b""
        end = self._at + limit
        data = self._block[self._at : end]  # a slice of everything does not copy
        self._at += len(data)
        return data

    def skip(self, count: int, /) -> int:
        """Skip `count` bytes; return how many there were."""
        left = count
        while left:
            here = len(self._block) - self._at
            if left <= here:
                self._at += left
                return count
            left -= here
            self._block, self._at = b"", 0
            if self._plain and self._hash is None:
                try:
                    return count - left + self._raw.skip(left)
                except _BROKEN as error:
                    raise self._unreadable(error) from error
            if not self._fill():
                break
        return count - left

    def close(self) -> None:
        """Close what was opened. The blob's file belongs to the archive and stays open."""
        self._block, self._at, self._ended = b"", 0, True
        self._source.close()
        if not self._plain:  # else it is the same object
            self._raw.close()
        if self._hash is not None:
            self._hash.close()

    def __enter__(self) -> LayerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decompressed(self) -> Any:
        magic = self._layer.blob.pread(_MAGIC, 0)
        for sign, name in _FOREIGN.items():
            if magic.startswith(sign):
                raise ImageError(
                    f"{self._layer} is compressed with {name}, which is not supported",
                    next_step="save the image again; layers may be plain, gzip or zstd",
                )
        match _compression(magic):
            case "gzip":
                return open_gzip(self._raw)
            case "zstd":
                return zstandard.ZstdDecompressor().stream_reader(
                    self._raw,  # type: ignore[arg-type]
                    read_size=CHUNK,
                    read_across_frames=True,
                    closefd=False,
                )
            case None:
                return self._raw

    def _fill(self) -> bool:
        """Read the next block; at the end, verify once."""
        if self._ended:
            return False
        try:
            self._block, self._at = self._source.read(CHUNK), 0
            if not self._block:
                self._ended = True
                self._verify()
                return False
        except _BROKEN as error:
            raise self._unreadable(error) from error
        if self._hash is not None:
            self._hash.update(self._block)
        return True

    def _unreadable(self, error: Exception) -> ImageError:
        return ImageError(
            f"{self._layer} cannot be read", why=str(error), next_step="save or download the image again"
        )

    def _verify(self) -> None:
        if self._hash is None:
            return
        found = self._hash.hexdigest()
        if found != self._layer.diff_id.hex:
            raise _mismatch(self._layer, self._layer.diff_id, found)
        if self._layer.digest is None or not isinstance(self._raw, _Raw):
            return
        stored = self._raw.hexdigest()
        if stored is not None and stored != self._layer.digest.hex:
            raise _mismatch(self._layer, self._layer.digest, stored)


def _compression(magic: bytes) -> Literal["gzip", "zstd"] | None:
    """Return the compression of a blob that begins with `magic`."""
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    if magic.startswith(_ZSTD) or (magic[1:4] == _ZSTD_SKIPPABLE and magic[0] >> 4 == 5):
        return "zstd"
    return None


def _mismatch(layer: Layer, wanted: Digest, found: str) -> ImageError:
    return ImageError(
        f"{layer} is damaged",
        why=f"its content should have the digest {wanted} but has {wanted.algorithm}:{found}",
        next_step="save or download the image again",
    )
