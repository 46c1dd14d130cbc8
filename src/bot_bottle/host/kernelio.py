"""What Linux does for files beyond reading and writing; on other systems callers do without it.

Sources: copy_file_range(2), sync_file_range(2).
"""

from __future__ import annotations

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h


def copy_range(source: int, offset: int, size: int, target: int) -> int:
    """Have the kernel append a range of one open file to another; give how many bytes it did.

    File systems with shared blocks (btrfs, XFS) share whole blocks that lie at whole blocks in both; others
    copy. Where the two files are of different kinds, and on other systems than Linux, fewer bytes come out
    than were asked for: the rest is for the caller to copy. Raises OSError for a full disk.
    """
    done = 0
    try:
        while done < size and hasattr(os, "copy_file_range"):
            count = os.copy_file_range(source, target, size - done, offset_src=offset + done)
            if not count:
                break
            done += count
    except OSError as error:
        if error.errno in _FULL:
            raise
    return done


def begin_writing(fd: int, offset: int, size: int) -> bool:
    """Have a range of a file go to the disk from now on, so that whoever syncs it later waits for less.

    Tells whether the kernel does. Nothing is promised: what is to be on the disk has still to be synced.
    """
    import ctypes  # only here: finding an artifact needs none of it

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    return call is not None and call(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _WRITE) == 0
