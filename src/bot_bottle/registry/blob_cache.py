"""Blobs that outlive their registry, so that a layer is pushed only once.

They are hard links by digest in a folder of the user's cache. They are not synced to the disk, so a crash may
damage one: a blob is hashed before it is used, and a damaged one costs no more than a push.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from bot_bottle.image.spec import Digest

LIMIT = 4 << 30  # bytes


class BlobCache:
    """The blobs in `folder`, which is created private if it does not exist. Several processes may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, digest: Digest, path: Path) -> None:
        """Link the blob at `path` into the folder, where the file system can."""
        with suppress(OSError):
            self._path(digest).hardlink_to(path)

    def take(self, digest: Digest, path: Path) -> bool:
        """Link a blob to `path` and return true if it is there and sound. A damaged one is removed."""
        kept = self._path(digest)
        try:
            with kept.open("rb") as file:
                if hashlib.file_digest(file, digest.algorithm).hexdigest() != digest.hex:
                    kept.unlink(missing_ok=True)
                    return False
            os.utime(kept)
            path.hardlink_to(kept)
        except FileExistsError:
            pass
        except OSError:
            return False
        return True

    def trim(self, limit: int = LIMIT) -> int:
        """Remove the least recently used blobs until `limit` bytes are left; return the bytes removed."""
        there = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                there.append((path.stat().st_mtime, path.stat().st_size, path))
        total = kept = sum(size for _, size, _ in there)
        for _, size, path in sorted(there):
            if kept <= limit:
                break
            path.unlink(missing_ok=True)
            kept -= size
        return total - kept

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.algorithm}-{digest.hex}"
