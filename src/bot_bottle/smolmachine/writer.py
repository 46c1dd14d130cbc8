"""Writing a `.smolmachine` file in one pass, forward only, with nothing held in memory.

Source: smolvm's .smolmachine format v1 (see format.py). The assets may be several zstd frames one after
another, so a file that is already compressed goes in as it is.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import zstandard

from bot_bottle.errors import ArtifactError
from bot_bottle.image.oci import Digest
from bot_bottle.smolmachine.format import Footer
from bot_bottle.smolmachine.manifest import Manifest

_LEVEL = 3  # what smolvm itself uses
# What one thread compresses at a time, in bytes. zstd's own choice of 8 MiB makes files 0.2 % smaller and
# takes two to three times the memory.
_JOB = 2 << 20

_BLOCK = 512


class Output(Protocol):
    """Where the file goes; `write` takes all it is given."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written: size in bytes, footer, and the SHA-256 of all of it."""

    size: int
    footer: Footer
    digest: Digest


class Writer:
    """Writes the tar members one by one, then the manifest and the footer.

    `threads` compress beside the caller's own thread; the bytes do not depend on how many there are.
    """

    def __init__(self, out: Output, *, threads: int = 1) -> None:
        self._out = out
        self._sha256 = hashlib.sha256()
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL, threads=max(1, threads), job_size=_JOB
        )
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._frame: zstandard.ZstdCompressionObj | None = None
        self.size = 0
        self.crc = 0

    def member(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a file of exactly `size` bytes. Raises ArtifactError when `chunks` hold more or fewer."""
        self._compress(_header(name, size))
        done = 0
        for chunk in chunks:
            done += len(chunk)
            if done > size:
                break
            self._compress(chunk)
        if done != size:
            raise ArtifactError(
                f"{name} did not come out as long as it was said to be", why=f"{done} bytes instead of {size}"
            )
        self._compress(bytes(-size % _BLOCK))

    def compressed_member(self, name: str, size: int, frames: Iterable[bytes]) -> None:
        """Write a file that is already compressed: whole zstd frames that hold `size` bytes."""
        self._compress(_header(name, size))
        self._end_frame()
        for chunk in frames:
            self._write(chunk)
        self._compress(bytes(-size % _BLOCK))

    def finish(self, manifest: Manifest) -> Written:
        """End the tar and write manifest and footer. Nothing can be written after that."""
        self._compress(bytes(2 * _BLOCK))
        self._end_frame()
        assets_size = self.size
        raw = manifest.to_json()
        self._write(raw)
        footer = Footer(assets_size, len(raw), self.crc)
        self._write(footer.pack())
        return Written(self.size, footer, Digest(f"sha256:{self._sha256.hexdigest()}"))

    def _compress(self, data: bytes) -> None:
        if not data:
            return
        if self._frame is None:
            self._frame = self._compressor.compressobj()
        self._write(self._frame.compress(data))

    def _end_frame(self) -> None:
        if self._frame is not None:
            self._write(self._frame.flush())
            self._frame = None

    def _write(self, data: bytes) -> None:
        if data:
            self.crc = zlib.crc32(data, self.crc)
            self._sha256.update(data)
            self.size += len(data)
            self._out.write(data)


def _header(name: str, size: int) -> bytes:
    """Give a GNU tar header that says nothing of when, where or by whom it was made."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)
