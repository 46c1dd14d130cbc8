"""What a machine of QEMU boots is made in the cache once, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.errors import AccelError
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.system_errors import next_step


@contextmanager
def prepared_folder(folder: Path, what: str, waiting: str, mode: int, progress: Progress) -> Iterator[None]:
    """Lock a folder for the block, in which `what` is made; create it with this mode.

    `waiting` is noted where another process has the lock. Raises AccelError in place of an OSError.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        with exclusive_lock(folder / "lock", lambda: progress.note(waiting)):
            yield
    except OSError as error:
        raise AccelError(
            f"cannot prepare {what} in {folder}",
            why=str(error),
            next_step=next_step(
                error, "make it writable and free some space, or name another with BOT_BOTTLE_CACHE_DIR"
            ),
        ) from error
