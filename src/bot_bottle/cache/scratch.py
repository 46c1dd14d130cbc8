"""Files made in the cache: in a folder of their own until they are complete, synced, and renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bot_bottle.cache import prune as tidy
from bot_bottle.errors import DiskFullError
from bot_bottle.host.files import disk_full
from bot_bottle.host.signals import defer_signals


@contextmanager
def scratch_folder(folder: Path, stem: str) -> Iterator[Path]:
    """Yield a new folder for files of the artifact `stem`, which is removed when the block ends.

    The caller has the artifact's lock. What a killed process leaves is removed by the next one
    (prune.sweep_scraps). Raises OSError.
    """
    with ExitStack() as stack:
        with defer_signals():
            scratch = Path(tempfile.mkdtemp(prefix=f"{stem}.", suffix=".tmp", dir=folder))
            stack.callback(tidy.discard, scratch)
        yield scratch


@contextmanager
def disk_full_explained(what: str, folder: Path) -> Iterator[None]:
    """Raise DiskFullError in place of the OSError of a full disk, on which `what` did not fit."""
    try:
        yield
    except OSError as error:
        if not disk_full(error):
            raise
        raise DiskFullError(
            f"no room left for {what} in {folder}",
            why=str(error),
            next_step="bottle cache prune, or free some space",
        ) from error


def sync(path: Path) -> None:
    """Wait until a file or a folder's names are on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
