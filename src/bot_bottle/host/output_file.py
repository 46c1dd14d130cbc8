"""Write a result to a path that the user named, without putting a file in the place of something else.

A regular file is replaced in one step and a symbolic link is followed to its file, as cp(1) does. A pipe or a
character device gets the bytes as they come. Sources: path_resolution(7), proc_pid_fd(5), fifo(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from bot_bottle.errors import ArtifactError, UsageError
from bot_bottle.host.files import copy_range, disk_full

_STDOUT = 1
_MOST_LINKS = 40  # as many as Linux follows
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(\d+)(/task/\d+)?/fd")
_BLOCK = 1 << 20  # bytes
_REFUSED = {
    stat.S_IFDIR: "it is a directory",
    stat.S_IFBLK: "it is a block device",
    stat.S_IFSOCK: "it is a socket",
}


class OutputFile(Struct, frozen=True):
    """A place that can be written to.

    `path` is what the user named, absolute. `target` is the file to make or to replace, or None where the
    bytes go into what is there. `descriptor` is set if the path stands for an open file of this process.
    """

    path: Path
    target: Path | None
    descriptor: int | None = None

    @property
    def is_stdout(self) -> bool:
        """Whether it is this process's standard output."""
        return self.descriptor == _STDOUT

    def write(self, source: BinaryIO) -> None:
        """Copy all of an open file to the place.

        Raises ArtifactError, OSError for a full disk, and BrokenPipeError when the reader of standard output
        has gone.
        """
        try:
            if self.target is not None:
                _replace(source, self.target)
            else:
                self._stream(source)
        except OSError as error:
            if disk_full(error) or (self.is_stdout and isinstance(error, BrokenPipeError)):
                raise
            raise _cannot(self.path, error) from error

    def _stream(self, source: BinaryIO) -> None:
        if self.descriptor is not None:
            target = os.dup(self.descriptor)
        else:
            target = os.open(self.path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(target, "wb") as file:
            if self.descriptor is None:
                _check_kind(self.path, os.fstat(target))  # it may be another than was found
            shutil.copyfileobj(source, file, _BLOCK)


def find_output(path: Path) -> OutputFile:
    """Return the place that a path stands for; nothing is opened or changed.

    Raises UsageError for what cannot be written to or replaced with safety (a directory, block device,
    socket, terminal, or link that leads nowhere), and ArtifactError where the path cannot be resolved.
    """
    given = path.absolute()
    try:
        number = _descriptor(given)
        if number is not None:
            return _open_file(given, number)
        if os.path.lexists(given):
            return _existing(given)
        if not stat.S_ISDIR(given.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise _cannot(path, error) from error
    return OutputFile(given, given)


def _existing(path: Path) -> OutputFile:
    try:
        # the kernel follows the links here, so its rules for those that others made hold (proc_sys_fs(5))
        there = path.stat()
    except FileNotFoundError as error:
        raise _refused(path, f"it is a symbolic link to {path.readlink()}, which is missing") from error
    _check_kind(path, there)
    if not stat.S_ISREG(there.st_mode):
        return OutputFile(path, None)
    target = Path(os.path.realpath(path))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return OutputFile(path, target)


def _open_file(path: Path, number: int) -> OutputFile:
    if stat.S_ISDIR(os.fstat(number).st_mode):
        raise _refused(path, "it is a directory")
    if os.isatty(number):
        raise _refused(path, "it is a terminal")
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise _refused(path, "it is open for reading only")
    return OutputFile(path, None, number)


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that a path stands for, such as /dev/stdout."""
    name = path
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(name.parent)
        if found := _DESCRIPTORS.fullmatch(folder):
            if found[1] not in (None, str(os.getpid())) or not name.name.isdecimal():
                raise _refused(path, "it is an open file of another process")
            return int(name.name)
        if not name.is_symlink():
            return None
        name = Path(folder, name.readlink())
    return None


def _check_kind(path: Path, there: os.stat_result) -> None:
    kind = stat.S_IFMT(there.st_mode)
    if kind in _REFUSED:
        raise _refused(path, _REFUSED[kind])
    if stat.S_ISCHR(kind) and _is_special(os.major(there.st_rdev), os.minor(there.st_rdev)):
        raise _refused(path, "it is a terminal or a device of the system")


def _is_special(major: int, minor: int) -> bool:
    """Return whether a character device is more than a sink (Linux admin-guide/devices.txt)."""
    if major == 1:  # memory, except null, zero and full, which accept all that is written
        return minor not in (3, 5, 7)
    return major in (4, 5, 10) or 136 <= major <= 143  # consoles, terminals, miscellaneous


def _replace(source: BinaryIO, target: Path) -> None:
    """Copy beside the target and rename, so that no half file ever has its name."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as temp:
        try:
            size = os.fstat(source.fileno()).st_size
            source.seek(copy_range(source.fileno(), 0, size, temp.fileno()))
            temp.seek(0, os.SEEK_END)
            shutil.copyfileobj(source, temp, _BLOCK)
            temp.flush()
            os.fchmod(temp.fileno(), _mode(target))
            os.fsync(temp.fileno())
            Path(temp.name).replace(target)
        except BaseException:
            Path(temp.name).unlink(missing_ok=True)
            raise


def _mode(target: Path) -> int:
    """Return the permissions of the file that is replaced, or else those of a new one."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(f"cannot write to {path}: {why}", next_step="name a file, a pipe or /dev/stdout")


def _cannot(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {path}", why=error.strerror or str(error), next_step="name another file"
    )
