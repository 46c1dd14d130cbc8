"""Landlock, by which smolvm keeps the process that holds a guest from all files but the guest's own.

Asked to enforce it, smolvm 1.32 does so where the kernel has it, and says nothing where it has not. So bottle
looks first. An emulated host has a kernel of ours that has it.
"""

from __future__ import annotations

import ctypes

from bot_bottle.errors import WallsError

# linux/landlock.h; the number is the same on every architecture (landlock_create_ruleset(2))
_CREATE_RULESET = 444
_VERSION = 1


def landlock_abi() -> int:
    """Give the version of Landlock that this kernel has, 0 when it has none or has not turned it on."""
    found = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(int(found), 0)


def check_landlock() -> None:
    """Hold that smolvm can confine itself here. Raises WallsError."""
    if not landlock_abi():
        raise WallsError(
            "this machine's files cannot be closed to the process that holds a microVM",
            why="its kernel has no Landlock, or has not turned it on (see /sys/kernel/security/lsm)",
            next_step="put landlock into lsm= on the kernel's command line (Linux 5.13 or newer); "
            "or use --accel emulated or --backend docker",
        )
