"""Config digests of images whose engine names them by another digest, learned when they were exported.

One file for each image, named by its fingerprint (see engine/identity.py). Losing them costs an export.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from bot_bottle.errors import ImageError
from bot_bottle.host.files import read_regular, write_private
from bot_bottle.image.spec import Digest

_MOST = 2000  # files; the older half goes when there are more
_SIZE_LIMIT = 200  # bytes


class ConfigDigests:
    """The config digests in one folder, which is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, fingerprint: str) -> Digest | None:
        """Return the digest of the config of the image with this fingerprint, or None if it is not there."""
        try:
            raw, _ = read_regular(self._folder / fingerprint, _SIZE_LIMIT)
            return Digest(raw.decode("ascii").strip())
        except (OSError, ValueError, ImageError):
            return None

    def add(self, fingerprint: str, digest: Digest) -> None:
        """Keep a digest. Nothing is kept where the folder cannot be written."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._folder / fingerprint, f"{digest}\n")
            self.prune(_MOST)

    def prune(self, most: int) -> None:
        """Remove the older half where there are more than `most`; with 0, all of them."""
        try:
            names = [path for path in self._folder.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)]
        except FileNotFoundError:
            return
        if len(names) > most:
            names.sort(key=lambda path: path.lstat().st_mtime)
            for path in names[: max(len(names) // 2, len(names) - most)]:
                path.unlink(missing_ok=True)
