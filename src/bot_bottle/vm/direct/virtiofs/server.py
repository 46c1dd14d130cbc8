"""The process that serves a folder to a guest, as `vm.direct.share` starts it.

It has the rights of the caller without any capability, and reaches nothing but the folder: in namespaces of
its own, where the folder alone is mounted, with Landlock and a seccomp filter as far as this machine has
them. What is to be kept as it is, is mounted read-only. It ends with its parent, and when QEMU does.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

from bot_bottle.vm.direct import kernel_calls, restrictions
from bot_bottle.vm.direct.virtiofs import SOCKET, protocol
from bot_bottle.vm.direct.virtiofs.nodes import Nodes
from bot_bottle.vm.direct.virtiofs.operations import LARGEST, OPERATIONS, READ, WRITE, Files
from bot_bottle.vm.direct.virtiofs.owners import Owners
from bot_bottle.vm.direct.virtiofs.vhost_user import Device
from bot_bottle.vm.direct.virtiofs.virtqueue import BrokenGuest, Chain, gather, scatter, section

FAILED = 125  # the exit status when the folder cannot be shared as it was asked for

_PLACE = "/tmp"  # noqa: S108 - a folder that exists everywhere, to mount the new root on
_READ_ONLY, _REMOUNT = 0x1, 0x20
_FILES = 1 << 20  # open files, where the machine allows so many
_DATA = 1 << 30  # bytes of memory
_HANDLES_SHARE = 4  # a quarter of the files that may be open is left for those that are in use
_LARGEST_REQUEST = 2 << 20  # bytes, besides a write's data

# Landlock's rights in the folder, by their bits (linux/landlock.h): all but to execute, to make devices and
# to control them
_RIGHTS = (1 << 16) - 1 & ~(1 << 0 | 1 << 6 | 1 << 11 | 1 << 15)
_ENOUGH_LANDLOCK = 2  # the first version that can allow a file to be moved to another folder


class _Refused(Exception):
    """The folder cannot be shared as it was asked for."""


def main() -> None:
    """Serve the folder that the JSON document in the first argument describes."""
    asked = json.loads(sys.argv[1])
    try:
        kernel_calls.end_with_parent(asked["parent"], signal.SIGKILL)
        listener = _listen(asked["folder"])
        nodes = _confine(asked)
    except (_Refused, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(FAILED)
    with listener:
        connection, _ = listener.accept()
    owners = Owners(os.geteuid(), os.getegid(), asked["uid"], asked["gid"])
    try:
        Device(connection, Server(Files(nodes, owners)).answer).serve()
    except (BrokenGuest, ConnectionError) as error:
        sys.exit(f"the guest's file system ended: {error}")


class Server:
    """Answers the guest's requests."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def answer(self, chain: Chain) -> int:
        """Do what a request asks for, and return the length of the answer. Raises BrokenGuest."""
        head = gather(chain.readable, protocol.REQUEST.size)
        if len(head) < protocol.REQUEST.size:
            raise BrokenGuest("a request that is too short")
        length, opcode, unique, number, *_ = protocol.REQUEST.unpack(head)
        try:
            if opcode == READ:
                return self._read(chain, unique)
            data = self._done(chain, length, opcode, number)
        except OSError as error:
            return _refuse(chain, unique, error.errno or errno.EIO)
        except MemoryError:
            return _refuse(chain, unique, errno.ENOMEM)
        except (struct.error, ValueError, OverflowError, RecursionError):
            return _refuse(chain, unique, errno.EINVAL)
        if not chain.writable:  # wants no answer
            return 0
        size = protocol.ANSWER.size + len(data)
        return scatter(chain.writable, protocol.ANSWER.pack(size, 0, unique) + data)

    def _done(self, chain: Chain, length: int, opcode: int, number: int) -> bytes:
        start = protocol.REQUEST.size
        if opcode == WRITE:
            views = section(chain.readable, start, protocol.WRITE.size)
            body = gather(views, protocol.WRITE.size)
            [size] = struct.unpack_from("<I", body, 16)
            if size > LARGEST:
                raise OSError(errno.EINVAL, "too much at once")
            return self._files.write(body, section(chain.readable, start + protocol.WRITE.size, size))
        operation = OPERATIONS.get(opcode)
        if operation is None:
            raise OSError(errno.ENOSYS, "unknown")
        if length > _LARGEST_REQUEST:
            raise OSError(errno.EINVAL, "too much at once")
        return operation(self._files, number, gather(chain.readable, length)[start:])

    def _read(self, chain: Chain, unique: int) -> int:
        start = protocol.REQUEST.size
        body = gather(section(chain.readable, start, protocol.READ.size), protocol.READ.size)
        [size] = struct.unpack_from("<I", body, 16)
        into = section(chain.writable, protocol.ANSWER.size, min(size, LARGEST))
        length = protocol.ANSWER.size + (self._files.read(body, into) if into else 0)
        scatter(chain.writable, protocol.ANSWER.pack(length, 0, unique))
        return length


def _refuse(chain: Chain, unique: int, code: int) -> int:
    if not chain.writable:
        return 0
    return scatter(chain.writable, protocol.ANSWER.pack(protocol.ANSWER.size, -code, unique))


def _listen(folder: str) -> socket.socket:
    os.chdir(folder)  # a socket's path is short
    os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{SOCKET}.new")
    listener.listen(1)
    return listener


def _confine(asked: dict[str, Any]) -> Nodes:
    """Drop all rights but those in the folder, and return its files. Raises OSError."""
    ready = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.umask(0)  # the guest has applied its own
    kernel_calls.drop_bounding_set()
    rules = restrictions.make_rules([(asked["source"], _RIGHTS)], tcp=False)
    own_mounts = _enter_namespaces(kept=bool(asked["kept"]))
    top = os.open(asked["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if own_mounts:
        top = _enter_root(top, asked["kept"])
    kernel_calls.drop_capabilities()
    kernel_calls.end_with_parent(asked["parent"], signal.SIGKILL)  # a change of rights undoes it
    kernel_calls.forbid_new_privileges()
    os.fchdir(descriptors)
    os.rename(f"{SOCKET}.new", SOCKET, src_dir_fd=ready, dst_dir_fd=ready)  # from here on it is ready
    os.close(ready)
    if rules.version >= _ENOUGH_LANDLOCK:
        rules.enforce()
    restrictions.restrict_calls(())
    return Nodes(top, _limit())


def _enter_namespaces(*, kept: bool) -> bool:
    """Enter new namespaces, in a user namespace if need be; return whether this machine allows them."""
    wanted = kernel_calls.NEW_MOUNTS | kernel_calls.NEW_IPC | kernel_calls.NEW_UTS | kernel_calls.NEW_NETWORK
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(PermissionError):  # root without CAP_SYS_ADMIN, as in a container
            kernel_calls.unshare(wanted)
            return True
    try:
        kernel_calls.unshare(wanted | kernel_calls.NEW_USER)
        for name, text in (
            ("uid_map", f"{uid} {uid} 1"),
            ("setgroups", "deny"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib takes its time to load
                file.write(text)
    except OSError as error:
        if kept:
            raise _Refused(f"this machine allows no user namespaces ({error})") from error
        return False
    return True


def _enter_root(source: int, kept: list[str]) -> int:
    """Make the folder all that is mounted, with what is to be kept read-only, and return it opened."""
    place = f"{_PLACE}/share"
    kernel_calls.mount("none", "/", flags=kernel_calls.PRIVATE | kernel_calls.RECURSIVE)
    flags = kernel_calls.NO_SUID | kernel_calls.NO_DEVICES
    kernel_calls.mount("tmpfs", _PLACE, "tmpfs", flags, "mode=755,size=1m,nr_inodes=16")
    os.mkdir(place)  # noqa: PTH102 - pathlib takes its time to load
    bind = kernel_calls.BIND | kernel_calls.RECURSIVE
    kernel_calls.mount(f"/proc/self/fd/{source}", place, flags=bind)
    os.close(source)
    kernel_calls.restrict_mount(place, kernel_calls.ATTR_NO_SUID | kernel_calls.ATTR_NO_DEVICES)
    for name in kept:
        kernel_calls.mount(f"{place}/{name}", f"{place}/{name}", flags=bind)
        kernel_calls.restrict_mount(f"{place}/{name}", kernel_calls.ATTR_READ_ONLY)
    kernel_calls.change_root(_PLACE)
    kernel_calls.mount("none", "/", flags=_REMOUNT | _READ_ONLY | kernel_calls.BIND | flags)
    return os.open("/share", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _limit() -> int:
    """Set limits, and return how many of the guest's files may be held open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_DATA: _DATA, resource.RLIMIT_CORE: 0}
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    return files - files // _HANDLES_SHARE
