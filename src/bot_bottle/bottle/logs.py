"""The log of a detached bottle: the newest part of its command's output.

The command writes to the file itself. When that has grown too large, its oldest part becomes a hole: the
space is free again, every position stays the same, and neither the writer nor a reader is disturbed. A file
system without holes keeps all of it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from bot_bottle.errors import ReceiptError, WorkspaceError
from bot_bottle.host import paths
from bot_bottle.host.system_errors import next_step

MOST = 64 << 20  # bytes that are kept; half of them after a larger log was cut

_STEP = 1 << 20  # holes begin and end at multiples of every file system's blocks
_POLL = 0.25  # seconds
_LINE = 64 << 10
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)


def path(name: str) -> Path:
    """Return the path of a bottle's log."""
    return paths.bottle_dir(name) / "log"


def begin(name: str) -> int:
    """Start a bottle's log again and return its file descriptor. Raises WorkspaceError."""
    place = path(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(place, flags, 0o600)
    except OSError as error:
        raise WorkspaceError(
            f"cannot write {place}",
            why=str(error),
            next_step=next_step(error, "make it writable, or set BOT_BOTTLE_STATE_DIR to another folder"),
        ) from error


def keep_small(descriptor: int, most: int = MOST) -> None:
    """Limit a log to `most` bytes for as long as this process runs, which closes the descriptor."""
    threading.Thread(target=_keep_small, args=(descriptor, most), daemon=True).start()


def _keep_small(descriptor: int, most: int) -> None:
    dropped = 0
    with suppress(OSError, AttributeError):  # the file system has no holes
        while True:
            size = os.fstat(descriptor).st_size
            if size - dropped > most:
                dropped = (size - most // 2) // _STEP * _STEP
                _punch(descriptor, dropped)
            time.sleep(_POLL)


def _punch(descriptor: int, length: int) -> None:
    """Make the first `length` bytes of a file a hole. Raises OSError, AttributeError where there are none."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, 0, length):
        raise OSError(ctypes.get_errno(), "cannot make a hole")


def read(
    name: str, lasts: Callable[[], bool], on_dropped: Callable[[int], None] = lambda _: None
) -> Iterator[bytes]:
    """Yield what is stored of a bottle's output, and more while it `lasts`. Raises ReceiptError.

    `on_dropped` is called with the number of missing bytes, whenever some are missing.
    """
    try:
        file = path(name).open("rb")
    except OSError as error:
        raise ReceiptError(
            f"there is no log of a bottle named {name}",
            why=error.strerror or "",
            next_step="only bottle run -d writes one, which bottle rm removes",
        ) from error
    whole = True  # whether the last piece ended a line
    with file:
        while True:
            more = lasts()  # asked before reading, so that the last output is not missed
            while (found := _next(file.fileno()))[1]:
                dropped, data = found
                if dropped:
                    on_dropped(dropped)
                yield b"\n" + data if dropped and not whole else data
                whole = data.endswith(b"\n")
            if not more:
                return
            time.sleep(_POLL / 5)


def _next(descriptor: int) -> tuple[int, bytes]:
    """Read on, after a hole from the beginning of the next line; return how many bytes are missing."""
    here = os.lseek(descriptor, 0, os.SEEK_CUR)
    there = _kept_from(descriptor, here)
    data = os.pread(descriptor, _LINE, there)
    while (now := _kept_from(descriptor, there)) > there:  # it became a hole before it was read
        there, data = now, os.pread(descriptor, _LINE, now)
    after = os.lseek(descriptor, there + len(data), os.SEEK_SET)
    if there > here:
        data = data[data.find(b"\n") + 1 :] or data
    return after - len(data) - here, data


def _kept_from(descriptor: int, position: int) -> int:
    """Return the position of the next data of a file at or after a position."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError:  # no more data, or no support for holes
        return position
