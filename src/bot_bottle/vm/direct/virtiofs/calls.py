"""System calls on files that Python does not have, through the C library."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_NOW, _OMIT = (1 << 30) - 1, (1 << 30) - 2  # UTIME_NOW, UTIME_OMIT

Time = tuple[int, int]
"""Seconds and nanoseconds."""

NOW: Time = (0, _NOW)
UNCHANGED: Time = (0, _OMIT)


def rename(folder: int, name: bytes, new_folder: int, new_name: bytes, flags: int) -> None:
    """Rename a file, with flags (renameat2(2)). Raises OSError."""
    _checked(_LIBC.renameat2(folder, name, new_folder, new_name, ctypes.c_uint(flags)))


def set_times(path: str, accessed: Time, changed: Time) -> None:
    """Set a file's times (utimensat(2)). Raises OSError."""
    times = (ctypes.c_long * 4)(*accessed, *changed)
    _checked(_LIBC.utimensat(_AT_FDCWD, path.encode(), times, 0))


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Change the blocks of a file (fallocate(2)). Raises OSError."""
    _checked(_LIBC.fallocate64(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
