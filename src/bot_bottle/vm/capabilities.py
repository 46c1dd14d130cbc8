"""What this machine's kernel can do for a microVM: KVM and Landlock, checked without booting a guest.

That `/dev/kvm` opens proves little: in some clouds it belongs to a KVM without hardware virtualization
(`kvm_pvm`), which creates a VM that no ordinary guest kernel ever boots in.

By Landlock smolvm restricts the process that runs a guest to the guest's own files. Asked to enforce it,
smolvm 1.32 does so where the kernel has it, and says nothing where it has not, so bottle checks first. An
emulated host has a kernel of ours that has it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
from pathlib import Path
from typing import Literal

from msgspec import Struct

from bot_bottle.errors import WallsError

KvmState = Literal["good", "absent", "denied", "unusable"]

# linux/kvm.h: _IO(KVMIO, 0x00), KVM_GET_API_VERSION, which has answered 12 since Linux 2.6.22
_KVM_GET_API_VERSION = 0xAE00
_API_VERSION = 12

# linux/landlock.h; the number is the same on every architecture (landlock_create_ruleset(2))
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1

_ENABLE = "enable virtualization in the firmware, or nesting in the cloud"


class Kvm(Struct, frozen=True):
    """The state of KVM here, the reason in words, and what to do unless it is good."""

    state: KvmState
    reason: str
    next_step: str = ""


def probe_kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Kvm:
    """Return whether KVM can boot a guest here; takes about a millisecond."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Kvm("absent", f"{device} is not there", _ENABLE)
    except PermissionError:
        step = "sudo usermod -aG kvm $USER, then log in again"
        return Kvm("denied", f"no permission to open {device}", step)
    except OSError as error:
        return Kvm("absent", f"{device} does not open: {error.strerror}", _ENABLE)
    try:
        version = fcntl.ioctl(handle, _KVM_GET_API_VERSION)
    except OSError as error:
        return Kvm("unusable", f"{device} is not a KVM: {error.strerror}", _ENABLE)
    finally:
        os.close(handle)
    if version != _API_VERSION:
        return Kvm("unusable", f"{device} has KVM API {version}, not {_API_VERSION}", "use a newer kernel")
    if platform.machine() == "x86_64" and not _hardware_virtualization(cpuinfo):
        reason = "KVM is here without hardware virtualization (no vmx or svm), so a guest would never boot"
        return Kvm("unusable", reason, "use a machine whose cloud offers nested virtualization")
    return Kvm("good", f"{device} can boot a guest")


def _hardware_virtualization(cpuinfo: Path) -> bool:
    try:
        with cpuinfo.open() as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return True  # not certain: the boot shows it
    return not {"vmx", "svm"}.isdisjoint(flags.split())


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has, 0 when it has none or has not turned it on."""
    found = ctypes.CDLL(None).syscall(
        _LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION
    )
    return max(int(found), 0)


def check_landlock() -> None:
    """Check that smolvm can confine itself here. Raises WallsError."""
    if not landlock_abi():
        raise WallsError(
            "cannot sandbox smolvm: this kernel has no Landlock",
            why="it is missing or not turned on (see /sys/kernel/security/lsm)",
            next_step="put landlock into lsm= on the kernel's command line (Linux 5.13 or newer); "
            "or use --accel direct or --backend docker",
        )
