"""Small files that are there whole or not at all, for the user alone."""

from __future__ import annotations

import os
from pathlib import Path

from bot_bottle.locks import locked


def write_private(path: Path, text: str) -> None:
    """Write a whole file in its place, and wait until it is on the disk. Raises OSError.

    Writers to one folder come one after the other, so that what a killed one left is the next one's to use.
    """
    partial = path.parent / "partial"
    with locked(path.parent / "lock", lambda: None):
        with open(partial, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
