"""Blobs by digest: hashed while they are written, verified, then renamed.

The store lives as long as its registry, so it is not synced to the disk: a crash ends the registry too. A
blob is a file of the store, or a byte range of a file that its owner keeps open, such as a layer in a saved
image: such a range is registered, never copied.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bot_bottle.image.layers import CHUNK, Blob
from bot_bottle.image.spec import Digest
from bot_bottle.registry.blob_cache import BlobCache

CANONICAL = "sha256"  # the algorithm of digests, if none is given


class UnknownBlob(LookupError):
    """The store does not have the blob."""


class DigestMismatch(ValueError):
    """The digest of the data is not the one that was announced."""


class TooManyUploads(RuntimeError):
    """Too many uploads are open."""


class BlobStore:
    """The blobs in the folder `root`, which the caller creates, keeps private and removes.

    With `kept`, uploads are also saved there. The methods may be called from several threads.
    """

    def __init__(
        self,
        root: Path,
        kept: BlobCache | None = None,
        *,
        max_uploads: int = 64,
        upload_seconds: float = 3600,
    ) -> None:
        self._blobs = root / "blobs"
        self._partial = root / "uploads"
        for folder in (self._blobs / "sha256", self._blobs / "sha512", self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._kept = kept
        self._lent: dict[Digest, Blob] = {}
        self._uploads: dict[str, Upload] = {}
        self._max_uploads = max_uploads
        self._upload_seconds = upload_seconds

    def lend(self, digest: Digest, blob: Blob) -> None:
        """Register a byte range as the blob `digest`. The caller has verified it, and keeps its file open."""
        self._lent[digest] = blob

    def adopt(self, digest: Digest) -> bool:
        """Restore a blob from the cache; return whether it was there."""
        return self._kept is not None and self._kept.take(digest, self._path(digest))

    def size(self, digest: Digest) -> int | None:
        """Return a blob's size in bytes, or None if it does not exist."""
        if lent := self._lent.get(digest):
            return lent.size
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, digest: Digest) -> Iterator[Blob]:
        """Yield an open blob, which can be read to its end even if it is removed. Raises UnknownBlob."""
        if lent := self._lent.get(digest):
            yield lent
            return
        try:
            fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnknownBlob(str(digest)) from None
        try:
            yield Blob(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def read(self, digest: Digest) -> bytes:
        """Return the bytes of a small blob. Raises UnknownBlob."""
        with self.open(digest) as blob:
            return blob.pread(blob.size, 0)

    def put(self, data: bytes, algorithm: str = CANONICAL) -> Digest:
        """Store a small blob, and return its digest."""
        digest = Digest.of(data, algorithm)
        if self.size(digest) is None:
            with self.upload() as upload:
                upload.write(data)
                upload.commit(digest)
        return digest

    def remove(self, digest: Digest) -> None:
        """Remove a blob, if it exists."""
        if self._lent.pop(digest, None) is None:
            self._path(digest).unlink(missing_ok=True)

    def upload(self, algorithm: str | None = None, *, owner: str = "") -> Upload:
        """Start an upload for `owner`, a repository.

        Uploads that have been idle for long are cancelled first. Raises TooManyUploads.
        """
        for stale in [each for each in self._uploads.values() if each.idle > self._upload_seconds]:
            stale.cancel()
        if len(self._uploads) >= self._max_uploads:
            raise TooManyUploads(f"{len(self._uploads)} uploads are open")
        upload = Upload(self, algorithm, owner)
        self._uploads[upload.id] = upload
        return upload

    def find_upload(self, upload_id: str) -> Upload | None:
        """Return an open upload, or None."""
        return self._uploads.get(upload_id)

    def close(self) -> None:
        """Cancel the open uploads."""
        for upload in list(self._uploads.values()):
            upload.cancel()
        if self._kept is not None:
            self._kept.trim()

    def _path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.hex


class Upload:
    """A blob that is being written. As a context manager it is cancelled unless it was committed.

    `algorithm` is the expected algorithm of its digest (None: not known yet); a wrong guess costs a second
    read. One thread at a time writes.
    """

    def __init__(self, store: BlobStore, algorithm: str | None, owner: str) -> None:
        self._store = store
        self.owner = owner
        self.algorithm = algorithm
        self.id = secrets.token_hex(16)
        self.size = 0
        self.busy = False
        self._touched = time.monotonic()
        self._path = store._partial / self.id
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash: Any = None

    @property
    def idle(self) -> float:
        """Seconds since the last write; 0 while a request is writing."""
        return 0.0 if self.busy else time.monotonic() - self._touched

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append and hash. When it raises OSError, nothing of `data` was added."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(self._fd, view, self.size + len(data) - len(view)) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        if self._hash is None:
            self._hash = hashlib.new(self.algorithm or CANONICAL)
        self._hash.update(data)
        self.size += len(data)
        self._touched = time.monotonic()

    def commit(self, digest: Digest) -> None:
        """Store the data as the blob `digest`. Raises DigestMismatch, and the upload is cancelled."""
        if self._hexdigest(digest.algorithm) != digest.hex:
            self.cancel()
            raise DigestMismatch(f"the content is not {digest}")
        self._path.replace(self._store._path(digest))
        if self._store._kept is not None:
            self._store._kept.keep(digest, self._store._path(digest))
        self.cancel()

    def cancel(self) -> None:
        """Remove what was written; does nothing if the upload has ended."""
        if self._store._uploads.pop(self.id, None) is not None:
            os.close(self._fd)
            self._path.unlink(missing_ok=True)

    def _hexdigest(self, algorithm: str) -> str:
        if self._hash is not None and self._hash.name == algorithm:
            return str(self._hash.hexdigest())
        whole = hashlib.new(algorithm)
        position = 0
        while data := os.pread(self._fd, CHUNK, position):
            whole.update(data)
            position += len(data)
        return whole.hexdigest()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
