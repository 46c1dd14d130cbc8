"""Locks that the kernel lets go of when their holder dies, on files and folders that may be removed.

A lock on a path is worth nothing once the path names another file, so whoever gets a lock looks again. That
is what lets run folders, lock files and artifacts go while others wait for them; and readers can share.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file alone, made if it is not there; `on_wait` is called once if another holds it."""
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
    """Hold a lock file alone, made for it and removed afterwards, or say that another has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            free = _lock_now(fd, fcntl.LOCK_EX)
            if free and not is_same_file(fd, path):
                continue  # its last holder has removed it
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
    """Hold an existing file or folder alone, or say that another has it. What is not there is nobody's."""
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
    """Hold an existing file together with others, and give its descriptor. Raises OSError when it is gone."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not is_same_file(fd, path):
            raise FileNotFoundError(f"{path} was removed")
        yield fd
    finally:
        os.close(fd)


def is_same_file(fd: int, path: Path) -> bool:
    """Whether an open file is still the one that its path names."""
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
