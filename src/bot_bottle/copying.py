"""Copies that move no bytes, where the file system lets two files share them."""

from __future__ import annotations

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


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
