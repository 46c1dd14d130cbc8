"""Files of a folder that an agent owned: opened without following a link or waiting for a pipe.

Every step down is taken from an open folder (openat(2) with O_NOFOLLOW), so that what is a link, or becomes
one between two steps, leads nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextmanager
def folder(path: Path | str, inside: int | None = None) -> Iterator[int]:
    """Give a folder's descriptor. `inside` is the folder that a bare name is looked up in.

    Raises OSError, for one when it is a link.
    """
    descriptor = os.open(path, _FOLDER, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def file(name: str, inside: int) -> Iterator[BinaryIO]:
    """Give a regular file of an open folder to read. Raises OSError if it is anything else."""
    descriptor = os.open(name, _FILE, dir_fd=inside)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is no regular file")
        yield opened


def names(inside: int) -> list[str]:
    """Give the names in an open folder, in order."""
    return sorted(os.listdir(inside))


def is_folder(name: str, inside: int) -> bool:
    """Whether an open folder holds a folder of this name."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
    except OSError:
        return False


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, however deep and whatever its modes. Raises OSError.

    Folders are moved up before they are emptied: a path, a call stack or open descriptors would run out.
    """
    if not os.path.lexists(path):
        return
    with folder(path) as top:
        os.fchmod(top, 0o700)
        number = 0
        while there := names(top):
            for name in there:
                if not is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                with suppress(PermissionError):
                    os.chmod(name, 0o700, dir_fd=top)  # it is a folder, and nobody else is there any more
                with folder(name, top) as opened:
                    for inner in names(opened):
                        if is_folder(inner, opened):
                            number += 1
                            os.chmod(inner, 0o700, dir_fd=opened)
                            os.rename(inner, f"{path.name}.{number}", src_dir_fd=opened, dst_dir_fd=top)
                        else:
                            os.unlink(inner, dir_fd=opened)
                os.rmdir(name, dir_fd=top)
    path.rmdir()
