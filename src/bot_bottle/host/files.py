"""Small files of the user's own: written whole or not at all, and read for what they should be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from bot_bottle.host.locks import locked


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


def read_regular(path: Path, limit: int) -> tuple[bytes, float]:
    """Give a regular file's bytes, and when it was last written or touched, in seconds since 1970.

    Raises OSError for anything else in its place, and for one of more than `limit` bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
            raise OSError(errno.EINVAL, "not a file of ours", str(path))
        return os.read(fd, facts.st_size), facts.st_mtime
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
