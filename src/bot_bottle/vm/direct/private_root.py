"""A root file system of this process's own, with no other files than it needs.

In a mount namespace: a tmpfs into which the given files and folders are mounted at their own paths. Nothing
else of this machine has a path then: no home, no socket of another program, no process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from bot_bottle.vm.direct.confinement import SYSTEM
from bot_bottle.vm.direct.kernel_calls import (
    ATTR_NO_DEVICES,
    ATTR_NO_SUID,
    ATTR_READ_ONLY,
    BIND,
    NO_DEVICES,
    NO_SUID,
    PRIVATE,
    RECURSIVE,
    change_root,
    mount,
    restrict_mount,
)

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_PLACE = "/tmp"  # noqa: S108 - a folder that exists everywhere, to mount the new root on


def enter_private_root(folder: str, read_only: Iterable[str]) -> None:
    """Make a new root of SYSTEM, DEVICES, `read_only` and the folder, and change to the folder in it.

    All paths are absolute. Raises OSError.
    """
    own = [path for path in read_only if not path.startswith(tuple(f"{each}/" for each in SYSTEM))]
    sources = [(path, _opened(path)) for path in sorted({*SYSTEM, *DEVICES, *own, folder})]
    mount("none", "/", flags=PRIVATE | RECURSIVE)
    mount("tmpfs", _PLACE, "tmpfs", NO_SUID | NO_DEVICES, "mode=755,size=1m,nr_inodes=4096")
    for path, handle in sources:
        if handle is None:
            continue
        target = _PLACE + path
        if _make(path, target, handle):
            mount(f"/proc/self/fd/{handle}", target, flags=BIND | RECURSIVE)
            if path in DEVICES:
                continue
            restrict_mount(target, ATTR_NO_SUID | (0 if path == folder else ATTR_READ_ONLY) | ATTR_NO_DEVICES)
        os.close(handle)
    change_root(_PLACE)
    mount("none", "/", flags=_REMOUNT_READ_ONLY)
    os.chdir(folder)


_REMOUNT_READ_ONLY = 0x1 | 0x20 | BIND | NO_SUID | NO_DEVICES  # MS_RDONLY, MS_REMOUNT


def _opened(path: str) -> int | None:
    """Return a handle of a file that exists; a link is opened itself."""
    links = path in SYSTEM
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if links else 0))
    except FileNotFoundError:
        return None


def _make(path: str, target: str, handle: int) -> bool:
    """Make what a file is mounted on; return False for a link, which is made again instead."""
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)  # noqa: PTH103, PTH120 - see below
    kind = os.fstat(handle).st_mode
    if stat.S_ISLNK(kind):  # as /lib is one, where programs are below /usr
        os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
        return False
    if os.path.lexists(target):  # below something that is mounted already
        return True
    if stat.S_ISDIR(kind):
        os.mkdir(target, 0o755)  # noqa: PTH102 - pathlib takes its time to load
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    return True
