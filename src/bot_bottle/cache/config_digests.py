"""Config digests of images whose engine names them by another digest, learned when they were exported.

One file for each name of an image: the engine's id of it, or its fingerprint (see engine/identity.py), which
other ids share. Losing them costs an export.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from bot_bottle.errors import CacheError, ImageError
from bot_bottle.host.files import read_regular, write_private
from bot_bottle.image.spec import Digest

_MOST = 2000  # files; the older half goes when there are more
_SIZE_LIMIT = 200  # bytes
_NAME = re.compile(r"[0-9a-f]{64}\Z")


class ConfigDigests:
    """The config digests in one folder, which is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Digest | None:
        """Return the digest of the config of the image with this name (64 hex digits), or None."""
        try:
            raw, _ = read_regular(self._folder / name, _SIZE_LIMIT)
            return Digest(raw.decode("ascii").strip())
        except (OSError, ValueError, ImageError):
            return None

    def add(self, name: str, digest: Digest) -> None:
        """Record the digest of an image's config. Where the folder cannot be written nothing is recorded."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._folder / name, f"{digest}\n")
            files = self._files()
            if len(files) > _MOST:
                _remove(files[: len(files) // 2])

    def clear(self) -> None:
        """Remove all of them. Raises CacheError where that cannot be done."""
        try:
            _remove(self._files())
        except FileNotFoundError:
            pass  # none was ever recorded
        except OSError as error:
            raise CacheError(
                f"cannot remove what is in {self._folder}",
                why=error.strerror or str(error),
                next_step="make it writable, or remove it",
            ) from error

    def _files(self) -> list[Path]:
        """Return the files in the order in which they were written."""
        found = []
        for path in self._folder.iterdir():
            if _NAME.match(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    found.append((path.lstat().st_mtime, path))
        return [path for _, path in sorted(found)]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
