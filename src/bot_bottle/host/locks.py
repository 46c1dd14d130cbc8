"""Locks that the kernel releases when their owner dies, on files and folders that may be removed.

A lock on a path is worth nothing once the path names another file, so the path is checked again after
locking. Therefore run folders, lock files and artifacts can be removed while others wait for them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Lock a file for the block, made if it is missing; `on_wait` is called once if another has the lock."""
    waited = False
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not _lock_now(fd, fcntl.LOCK_EX):
                if not waited:
                    waited = True
                    on_wait()
                fcntl.flock(fd, fcntl.LOCK_EX)
            if is_same_file(fd, path):
                yield
                return
        finally:
            os.close(fd)


@contextmanager
def try_lock_file(path: Path) -> Iterator[bool]:
    """Make and lock a file for the block, then remove it. Yield False if another has the lock."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            free = _lock_now(fd, fcntl.LOCK_EX)
            if free and not is_same_file(fd, path):
                continue  # its last owner has removed it
            try:
                yield free
            finally:
                if free:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock an existing file or folder for the block, and yield whether it is locked.

    False means that another has the lock; what is missing counts as locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:  # a symlink, or no right to open it: not ours
        yield False
        return
    try:
        yield _lock_now(fd, fcntl.LOCK_EX) and is_same_file(fd, path)
    finally:
        os.close(fd)


@contextmanager
def shared_lock(path: Path) -> Iterator[int]:
    """Lock an existing file, shared with others; yield its descriptor. Raises OSError if it was removed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not is_same_file(fd, path):
            raise FileNotFoundError(f"{path} was removed")
        yield fd
    finally:
        os.close(fd)


def is_same_file(fd: int, path: Path) -> bool:
    """Return whether an open file is still the one that its path names."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _lock_now(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
