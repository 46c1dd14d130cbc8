"""Landlock rules and a seccomp filter for this process and for what it starts, until they end.

Landlock (docs.kernel.org/userspace-api/landlock.html) says which files may be used and how, and from version
4 of its ABI whether TCP may be used; from version 6, that no process outside may be signalled. The filter
(seccomp(2)) refuses the system calls by which a process reaches others, or parts of the kernel that QEMU has
no use for; QEMU adds one of its own (`-sandbox`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from bot_bottle.vm.direct.kernel_calls import call, prctl

# linux/landlock.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REGULAR, _MAKE_SOCKET, _TRUNCATE = 1 << 5, 1 << 8, 1 << 9, 1 << 14
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many of the bits each version has
_NEWEST_FILE_RIGHTS = 16
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals

READ = _READ_FILE | _READ_DIR
RUN = _READ_FILE | _EXECUTE
USE_DEVICE = _READ_FILE | _WRITE_FILE
CHANGE = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REGULAR | _MAKE_SOCKET | _TRUNCATE
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE  # the rights that a rule for a file may have


def landlock_version() -> int:
    """Return the version of the kernel's Landlock ABI, 0 if it has none."""
    try:
        return call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


class FileRules(NamedTuple):
    """A Landlock ruleset and the version of its ABI. `ruleset` is None where the kernel has no Landlock."""

    version: int
    ruleset: int | None

    def enforce(self) -> int:
        """Enforce them; return the version of the ABI, 0 if there is none. Raises OSError."""
        if self.ruleset is not None:
            call(_RESTRICT_SELF, self.ruleset, 0)
            os.close(self.ruleset)
        return self.version


def make_rules(rights: Iterable[tuple[str, int]], *, tcp: bool) -> FileRules:
    """Make rules that allow these rights below these paths, and no others. Raises OSError.

    They are for the files that the paths name now, wherever these are mounted later. What does not exist is
    left out. Without `tcp` no TCP port may be bound or connected to.
    """
    version = landlock_version()
    if not version:
        return FileRules(0, None)
    handled = (1 << _FILE_RIGHTS.get(version, _NEWEST_FILE_RIGHTS)) - 1
    fields = [handled]
    fields += [0 if tcp else _TCP] if version >= 4 else []
    fields += [_SCOPES] if version >= 6 else []
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = call(_CREATE_RULESET, attributes, len(attributes), 0)
    for path, right in rights:
        _add_rule(ruleset, path, right & handled)
    return FileRules(version, ruleset)


def _add_rule(ruleset: int, path: str, right: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):  # noqa: PTH112 - pathlib takes its time to load
        right &= _OF_FILES
    call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", right, handle), 0)
    os.close(handle)


# Numbers of system calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl)
_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
_X32 = 0x40000000  # the bit of the other ABI of this architecture
_SOCKET, _CLONE, _TGKILL, _CLONE3 = 41, 56, 234, 435
_REFUSED = {
    "kill": 62,
    "tkill": 200,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "process_madvise": 440,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "pidfd_getfd": 438,
    "kcmp": 312,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "chroot": 161,
    "move_mount": 429,
    "open_tree": 428,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "unshare": 272,
    "setns": 308,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "init_module": 175,
    "finit_module": 313,
    "delete_module": 176,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "reboot": 169,
    "swapon": 167,
    "swapoff": 168,
    "acct": 163,
    "syslog": 103,
    "iopl": 172,
    "ioperm": 173,
    "modify_ldt": 154,
    "quotactl": 179,
    "fanotify_init": 300,
}
_NAMESPACES = 0x7E020080  # the flags CLONE_NEW...

# linux/bpf_common.h and linux/seccomp.h; offsets in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_SET_SECCOMP, _FILTER = 22, 2  # linux/prctl.h

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


def restrict_calls(families: Iterable[int]) -> bool:
    """Refuse system calls that QEMU does not need, and sockets of other families; return whether it is done.

    It is not on another architecture than x86-64. New privileges have to be forbidden before. Raises OSError.
    """
    if os.uname().machine != "x86_64":
        return False
    program = b"".join(struct.pack("=HBBI", *each) for each in _program(families, os.getpid()))
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    prctl(_SET_SECCOMP, _FILTER, ctypes.c_char_p(header))
    return True


def _program(families: Iterable[int], pid: int) -> list[Instruction]:
    refused = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    allowed = (_RETURN, 0, 0, _ALLOW)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _X86_64), refused]
    program += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), refused]
    for number in _REFUSED.values():
        program += [(_EQUAL, 0, 1, number), refused]
    # its flags are in memory, where a filter cannot look; the C library uses clone instead
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    argument = (_LOAD, 0, 0, _FIRST_ARGUMENT)
    program += [(_EQUAL, 0, 4, _CLONE), argument, (_ANY_BIT, 0, 1, _NAMESPACES), refused, allowed]
    program += [(_EQUAL, 0, 4, _TGKILL), argument, (_EQUAL, 1, 0, pid), refused, allowed]
    known = [instruction for family in families for instruction in ((_EQUAL, 0, 1, family), allowed)]
    return [*program, (_EQUAL, 0, len(known) + 2, _SOCKET), argument, *known, refused, allowed]
