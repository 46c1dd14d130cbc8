"""A cache of layers' tar headers, so that an image's files can be listed without reading its layers again.

The headers of a layer are stored as a segment (see frames.py): a file named by its key, written elsewhere and
renamed when the layer has been verified. It has a checksum, so it is not synced: a file that a crash has
damaged is noticed when it is read, removed, and made again. Users of the store have a shared lock on it,
prune an exclusive one. If the store cannot be written, for example on a full disk, nothing is cached.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

import zstandard
from msgspec import Struct

from bot_bottle.host.files import open_unbuffered
from bot_bottle.host.locks import shared_lock, try_lock
from bot_bottle.host.system_errors import folder_error
from bot_bottle.image.archive import Image
from bot_bottle.image.layers import CHUNK, Layer
from bot_bottle.smolmachine.crc import crc32
from bot_bottle.smolmachine.frames import COMPRESSION, is_segment, padding_frame
from bot_bottle.structs import replace

LIMIT = 10**9  # bytes that are kept by default

_LOCK = "lock"
_NAME = re.compile(r"[0-9a-f]{64}")
_FORM = "headers 1"  # to be changed with what tar/reader.py reads
_LARGEST = 32 << 20  # bytes, compressed; larger headers are not stored


class PrunedHeaders(Struct, frozen=True):
    """What prune removed, or would: segments and bytes; with `in_use` nothing, as others use the store."""

    count: int = 0
    freed: int = 0
    in_use: bool = False


class HeaderStore:
    """The segments in `folder`, created private to the user when it is first needed.

    `scratch` is a folder on the same file system for unfinished files, which the caller removes. The methods
    may be called from several threads.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self._scratch = scratch
        self._broken = False

    @contextmanager
    def using(self) -> Iterator[None]:
        """Protect the store from prune until the block ends; then reduce it to LIMIT bytes."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = self.folder / _LOCK
                lock.touch(mode=0o600)
                stack.enter_context(shared_lock(lock))
            except OSError as error:
                raise folder_error(f"cannot use the cache in {self.folder}", self.folder, error) from error
            stack.callback(self._forget)
            yield
        prune(self.folder, keep_bytes=LIMIT)

    def _forget(self) -> None:
        """Remove what was stored and not published."""
        for temp in self._scratch.iterdir():
            temp.unlink(missing_ok=True)

    def holds(self, key: str) -> bool:
        """Return whether there is a segment for a key, sound or not."""
        return self._path(key).exists()

    def read(self, key: str) -> bytes | None:
        """Return a key's segment; None if there is none, or it is damaged and therefore removed."""
        path = self._path(key)
        try:
            with open_unbuffered(path) as file:
                data = file.read(os.fstat(file.fileno()).st_size)
                os.utime(file.fileno())  # when it was last used
        except OSError:
            return None
        if is_segment(data):
            return data
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def keep(self, key: str, data: bytes) -> None:
        """Store a segment, if there is room. It is found after `publish`."""
        if self._broken:
            return
        temp = self._scratch / self._path(key).name
        try:
            with temp.open("wb", buffering=0) as file:
                if file.write(data) < len(data):
                    raise OSError("no room for all of it")
        except OSError:
            self._broken = True
            temp.unlink(missing_ok=True)

    def publish(self) -> None:
        """Publish the new segments; their layers have been verified."""
        with contextlib.suppress(OSError):
            for temp in self._scratch.iterdir():
                temp.replace(self.folder / temp.name)

    def _path(self, key: str) -> Path:
        return self.folder / hashlib.sha256(f"{COMPRESSION}\n{key}".encode()).hexdigest()


def prune(
    folder: Path, *, keep_bytes: int | None = None, older_than: float | None = None, dry_run: bool = False
) -> PrunedHeaders:
    """Remove segments, the least recently used first.

    Segments that were last used more than `older_than` seconds ago are removed, then as many as needed to
    come down to `keep_bytes`; none while the store is in use.
    """
    segments = _segments(folder)
    oldest = time.time() - older_than if older_than is not None else 0.0
    left = sum(size for _, size, _ in segments)
    gone: list[tuple[Path, int]] = []
    for used, size, path in segments:
        if used < oldest or (keep_bytes is not None and left > keep_bytes):
            gone.append((path, size))
            left -= size
    if gone and not dry_run:
        with try_lock(folder / _LOCK) as free:
            if not free:
                return PrunedHeaders(in_use=True)
            for path, _ in gone:
                path.unlink(missing_ok=True)
    return PrunedHeaders(len(gone), sum(size for _, size in gone))


def _segments(folder: Path) -> list[tuple[float, int, Path]]:
    """Return the segments as (time of last use, bytes, path), the least recently used first."""
    try:
        with os.scandir(folder) as found:
            ours = [entry for entry in found if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    listed = []
    for entry in ours:
        with contextlib.suppress(FileNotFoundError):
            facts = entry.stat(follow_symlinks=False)
            listed.append((facts.st_mtime, facts.st_size, Path(entry.path)))
    return sorted(listed)


def reuse_headers(image: Image, store: HeaderStore) -> Image:
    """Return an image whose layers' headers are read from the store, or stored if they were not in it.

    What is stored is what the reader of headers was given, byte for byte, and it is given the same again. It
    is found by the layer's digest, which had been verified when it was published.
    """
    return replace(image, layers=tuple(_reused(layer, store) for layer in image.layers))


def _reused(layer: Layer, store: HeaderStore) -> Layer:
    key = f"{_FORM} of {layer.diff_id}"
    stored = store.read(key)
    if stored is not None:
        return replace(layer, headers=partial(_StoredHeaders, stored), verified=True)
    # to find the headers all of it is decompressed, and here layers are read in parallel
    verify = layer.immutable and layer.compressed and not layer.is_sound
    return replace(layer, headers=lambda: _RecordedHeaders(layer, store, key, verify=verify))


class _StoredHeaders:
    """The headers of a layer. The data between them can only be skipped."""

    def __init__(self, stored: bytes) -> None:
        decompressor = zstandard.ZstdDecompressor()
        self._headers = decompressor.stream_reader(stored, read_across_frames=True)

    def read(self, count: int = -1, /) -> bytes:
        data = self._headers.read(count)
        while 0 < len(data) < count and (more := self._headers.read(count - len(data))):
            data += more
        return data

    def some(self, _limit: int, /) -> bytes:
        return b""

    def skip(self, count: int, /) -> int:
        return count

    def close(self) -> None:
        self._headers.close()  # type: ignore[no-untyped-call]

    def __enter__(self) -> _StoredHeaders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _RecordedHeaders:
    """A layer that is read from its source; on success the headers that were read are stored.

    With `verify` it is then read to its end, and verified.
    """

    def __init__(self, layer: Layer, store: HeaderStore, key: str, *, verify: bool) -> None:
        self._verification = layer.verification if verify else None
        self._stream = stream = layer.open(verify=verify)
        self._store = store
        self._key = key
        self._frame = zstandard.ZstdCompressor().compressobj()
        self._parts: list[bytes] = []
        self._size = 0
        self.some = stream.some
        self.skip = stream.skip
        self.close = stream.close

    def read(self, count: int = -1, /) -> bytes:
        data = self._stream.read(count)
        if self._size < _LARGEST:
            self._add(self._frame.compress(data))
        return data

    def _add(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._size += len(part)

    def __enter__(self) -> _RecordedHeaders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if kind is None and self._verification is not None:
                while self.some(CHUNK):
                    pass
                self._verification.done = True
        if kind is None and self._size < _LARGEST:
            self._add(self._frame.flush())
            frame = b"".join(self._parts)
            self._store.keep(self._key, frame + padding_frame(len(frame), crc32(frame)))
