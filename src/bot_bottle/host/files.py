"""Files beyond open(): written whole or not at all, read without surprises, moved by the kernel.

In a folder that an agent owned, every step down is taken from an open folder (openat(2) with O_NOFOLLOW), so
that what is a link, or becomes one between two steps, leads nowhere. Other sources: copy_file_range(2),
sync_file_range(2).
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.signals import defer_signals

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_STAMP = "stamp"
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of linux/fs.h


def write_private(path: Path, text: str) -> None:
    """Write a whole file in its place, and wait until it is on the disk. Raises OSError.

    Writers to one folder come one after the other, so that what a killed one left is the next one's to use.
    """
    with exclusive_lock(path.parent / "lock", lambda: None):
        replace_file(path, text.encode(), path.parent / "partial")


def replace_file(path: Path, data: bytes, partial: Path, mode: int = 0o600) -> None:
    """Write `data` to `partial`, sync it and rename it to `path`, which thus never has a part of it.

    Both must be on one file system, and nobody else may use `partial` meanwhile; what is there is
    overwritten. `mode` is for a new file. Raises OSError, also where `partial` is a link.
    """
    with write_replacement(path, partial, mode) as file:
        file.write(data)


@contextmanager
def write_replacement(path: Path, partial: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yield `partial`, open to write; when the block ends it is synced and renamed, as by `replace_file`.

    If the block fails, `path` stays as it was.
    """
    with open(partial, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode)) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    partial.replace(path)


def disk_full(error: BaseException) -> bool:
    """Return whether an error says that a file system, or the user's quota on it, has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_published(folder: Path, stamp: str) -> bool:
    """Return whether a folder is complete, and was published with this stamp."""
    try:
        return (folder / _STAMP).read_text() == stamp
    except OSError:
        return False


@contextmanager
def publish_dir(folder: Path, stamp: str) -> Iterator[Path]:
    """Yield a new folder to fill, which takes the place of `folder` with this stamp when the block ends.

    The caller holds a lock on it. If the block fails, `folder` stays as it was, and the new one is removed.
    Raises OSError.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        partial.chmod(0o755)
        yield partial
        (partial / _STAMP).write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except BaseException:
        with defer_signals():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def read_regular(path: Path, limit: int) -> tuple[bytes, float]:
    """Return a regular file's bytes, and when it was last written or touched, in seconds since 1970.

    Raises OSError for anything else in its place, and for one of more than `limit` bytes.
    """
    with open_unbuffered(path) as file:
        facts = os.fstat(file.fileno())
        if facts.st_size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
        return file.read(facts.st_size), facts.st_mtime


@contextmanager
def open_folder(path: Path | str, inside: int | None = None) -> Iterator[int]:
    """Yield a folder's descriptor. `inside` is the folder that a bare name is looked up in.

    Raises OSError, also when it is a link.
    """
    descriptor = os.open(path, _FOLDER, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_regular(name: str, inside: int) -> Iterator[BinaryIO]:
    """Yield a regular file of an open folder to read. Raises OSError if it is anything else."""
    with open_unbuffered(name, inside) as raw, io.BufferedReader(raw) as opened:
        yield opened


def open_unbuffered(path: Path | str, inside: int | None = None) -> io.FileIO:
    """Open a regular file to read. `inside` is the folder that a bare name is looked up in.

    Raises OSError if it is anything else.
    """
    file = io.FileIO(os.open(path, _FILE, dir_fd=inside))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def list_names(inside: int) -> list[str]:
    """Return the names in an open folder, sorted."""
    return sorted(os.listdir(inside))


def is_folder(name: str, inside: int) -> bool:
    """Return whether an open folder contains a folder of this name."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
    except OSError:
        return False


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it, however deep and whatever its modes. Raises OSError.

    Folders are moved up before they are emptied: a path, a call stack or open descriptors would run out.
    """
    if not os.path.lexists(path):
        return
    with open_folder(path) as top:
        os.fchmod(top, 0o700)
        number = 0
        while there := list_names(top):
            for name in there:
                if not is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                with suppress(PermissionError):
                    os.chmod(name, 0o700, dir_fd=top)  # it is a folder, and nobody else is there any more
                with open_folder(name, top) as opened:
                    for inner in list_names(opened):
                        if is_folder(inner, opened):
                            number += 1
                            os.chmod(inner, 0o700, dir_fd=opened)
                            os.rename(inner, f"{path.name}.{number}", src_dir_fd=opened, dst_dir_fd=top)
                        else:
                            os.unlink(inner, dir_fd=opened)
                os.rmdir(name, dir_fd=top)
    path.rmdir()


def copy_range(source: int, offset: int, size: int, target: int) -> int:
    """Append a range of one open file to another within the kernel; return how many bytes were copied.

    File systems with shared blocks (btrfs, XFS) share whole blocks that are aligned in both files; others
    copy. Where the two files are of different kinds, and on other systems than Linux, fewer bytes are copied
    than were asked for; the caller copies the rest. Raises OSError for a full disk.
    """
    done = 0
    try:
        while done < size and hasattr(os, "copy_file_range"):
            count = os.copy_file_range(source, target, size - done, offset_src=offset + done)
            if not count:
                break
            done += count
    except OSError as error:
        if disk_full(error):
            raise
    return done


def start_writeback(fd: int, offset: int, size: int) -> bool:
    """Start write-back of a range (sync_file_range) to shorten the final fsync; return whether it started.

    Nothing is promised: the file still has to be synced.
    """
    import ctypes  # only here: finding an artifact does not need it

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    return call is not None and call(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _WRITE) == 0
