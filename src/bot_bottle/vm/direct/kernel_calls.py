"""System calls that Python does not have, through the C library, as functions that raise OSError.

Imports nothing of the project, since programs use it that start in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x20000, 0x4000000, 0x8000000  # CLONE_NEW..., linux/sched.h
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000

BIND, RECURSIVE, PRIVATE, NO_SUID, NO_DEVICES = 0x1000, 0x4000, 0x40000, 2, 4  # linux/mount.h
_DETACH = 2

_PARENT_DEATH_SIGNAL, _DROP_BOUNDING, _NO_NEW_PRIVILEGES, _AMBIENT = 1, 24, 38, 47  # linux/prctl.h
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3

# numbers of system calls that are the same on every architecture (syscalls(2))
_MOUNT_SETATTR = 442
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
ATTR_READ_ONLY, ATTR_NO_SUID, ATTR_NO_DEVICES = 0x1, 0x2, 0x4


def call(number: int, *arguments: Any) -> int:
    """Make a system call by its number. Raises OSError."""
    typed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_LIBC.syscall(ctypes.c_long(number), *typed), f"system call {number}")


def unshare(flags: int) -> None:
    """Move into new namespaces (unshare(2)). Raises OSError."""
    _checked(_LIBC.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    """Mount a file system, or change one (mount(2)). Raises OSError."""
    words = [os.fsencode(word) for word in (source, target, kind)]
    _checked(_LIBC.mount(*words, ctypes.c_ulong(flags), os.fsencode(options) or None), f"mount on {target}")


def restrict_mount(target: str, attributes: int) -> None:
    """Set attributes of a mount and of all below it (mount_setattr(2), Linux 5.12). Raises OSError."""
    given = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    size = ctypes.sizeof(given)
    call(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, ctypes.byref(given), size)


def change_root(target: str) -> None:
    """Make a mount the root of this process, and unmount the old one (pivot_root(2)). Raises OSError."""
    os.chdir(target)
    _checked(_LIBC.pivot_root(b".", b"."), "pivot_root")  # the old root is on top of the new one then
    _checked(_LIBC.umount2(b".", _DETACH), "umount2")
    os.chdir("/")


def end_with_parent(parent: int, signum: int) -> None:
    """Make the kernel send us a signal when `parent` ends. Raises OSError if that has happened."""
    prctl(_PARENT_DEATH_SIGNAL, signum)
    if os.getppid() != parent:
        raise OSError("the parent process has ended")


def forbid_new_privileges() -> None:
    """Make programs with a set-user-ID bit or file capabilities ordinary ones, for good."""
    prctl(_NO_NEW_PRIVILEGES, 1)


def drop_bounding_set() -> None:
    """Remove all capabilities from the bounding and the ambient set (capabilities(7)), where we may."""
    for number in range(_last_capability() + 1):
        with contextlib.suppress(PermissionError):
            prctl(_DROP_BOUNDING, number)
    prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)


def drop_capabilities() -> None:
    """Drop the effective, the permitted and the inheritable capabilities. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _checked(_LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def prctl(option: int, value: Any, other: Any = 0) -> None:
    """Change a property of this process (prctl(2)). Raises OSError."""
    typed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in (value, other)]
    _checked(_LIBC.prctl(option, *typed, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123 - pathlib takes its time to load
            return int(file.read())
    except OSError:
        return 40  # CAP_CHECKPOINT_RESTORE


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
