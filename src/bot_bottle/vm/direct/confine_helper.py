"""A helper process that confines itself, and then becomes QEMU. See `confine` for what it is asked for.

It imports little, since it starts with every bottle. In this order: what QEMU is to have of this machine is
opened, then come namespaces, the private root, another user, no capabilities, limits, Landlock and seccomp.
What of it is in force is written to REPORT in QEMU's folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from bot_bottle.vm.direct import kernel_calls, restrictions
from bot_bottle.vm.direct.confinement import FAILED, PUBLISHED, REPORT, SYSTEM
from bot_bottle.vm.direct.private_root import DEVICES, enter_private_root

_ADDRESS = "127.0.0.1"

_CONNECT_SECONDS = 5
_MOST_FILES, _MOST_PROCESSES = 4096, 1024

_NAMESPACES = kernel_calls.NEW_MOUNTS | kernel_calls.NEW_IPC | kernel_calls.NEW_UTS | kernel_calls.NEW_NETWORK
_NAMES = ["mount", "ipc", "uts", "network"]

# the variables that QEMU gets: none of ours, which may be secrets
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "TMPDIR": ".", "LC_ALL": "C"}

# of sockets that QEMU may make
_FAMILIES: dict[str, tuple[int, ...]] = {
    "none": (socket.AF_UNIX,),
    "relayed": (socket.AF_UNIX, socket.AF_INET),
}

_SET_FLAGS, _IS_UP = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP (netdevice(7))


class _Refused(Exception):
    """What was asked for cannot be had here."""


def main() -> None:
    """Confine this process as the JSON document in the first argument says, and become the program."""
    asked = json.loads(sys.argv[1])
    try:
        _confine(asked)
    except (_Refused, OSError) as error:
        sys.stderr.write(f"QEMU cannot be confined: {error}\n")
        sys.exit(FAILED)
    argv = asked["argv"]
    try:
        os.execve(argv[0], argv, {**_ENVIRONMENT, **asked["env"]})  # noqa: S606 - no shell
    except OSError as error:
        sys.exit(f"{argv[0]} could not be started: {error.strerror}")


def _confine(asked: dict[str, Any]) -> None:
    kernel_calls.end_with_parent(asked["parent"], signal.SIGKILL)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    os.umask(0o022)
    os.chdir(asked["folder"])
    user, network = asked["user"], asked["network"]
    if user is not None:
        kernel_calls.drop_bounding_set()
        _give_away(user)
    _open_files(asked["descriptors"])
    rules = restrictions.make_rules(_rights(asked), tcp=network != "none")
    namespaces = _enter_namespaces(asked)
    channel = _share_network(asked) if network == "relayed" else None
    if "mount" in namespaces:
        enter_private_root(asked["folder"], [*asked["readable"], *asked["executable"]])
    _give_up_privileges(user)
    kernel_calls.end_with_parent(asked["parent"], signal.SIGKILL)  # a change of the user undoes it
    kernel_calls.forbid_new_privileges()
    _limit(other_user=user is not None)
    os.umask(0o077)
    report = {
        "user": user,
        "namespaces": namespaces,
        "landlock": rules.enforce(),
        "seccomp": restrictions.restrict_calls(_FAMILIES[network]),
    }
    with open(REPORT, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes its time to load
        json.dump(report, file)
    if channel is not None:
        descriptors = [number for number, _, _ in asked["descriptors"]]
        make_connections(channel, PUBLISHED, asked["connect"]["ports"], descriptors)


def _rights(asked: dict[str, Any]) -> list[tuple[str, int]]:
    """Return what may be done with which files."""
    rights = [(path, restrictions.READ) for path in (*SYSTEM, *asked["readable"])]
    rights += [(path, restrictions.USE_DEVICE) for path in DEVICES]
    rights += [(path, restrictions.RUN) for path in asked["executable"]]
    return [*rights, (asked["folder"], restrictions.CHANGE)]


def _open_files(wanted: list[tuple[int, str, int]]) -> None:
    """Open files at the numbers that QEMU's command line names (its option -add-fd)."""
    opened = [(number, os.open(path, flags | os.O_CLOEXEC)) for number, path, flags in wanted]
    for number, handle in opened:
        os.dup2(handle, number, inheritable=True)
        os.close(handle)


def _give_away(user: int) -> None:
    """Make the folder and what is in it the user's."""
    for name in (".", *os.listdir(".")):  # noqa: PTH208
        os.chown(name, user, user, follow_symlinks=False)


def _enter_namespaces(asked: dict[str, Any]) -> list[str]:
    """Enter new namespaces, in a user namespace if need be; return which, or none where none are allowed."""
    user, network = asked["user"], asked["network"]
    try:
        if user is not None:
            kernel_calls.unshare(_NAMESPACES)
            return _NAMES
        unshare_as_user(_NAMESPACES)
    except OSError as error:  # also root without CAP_SYS_ADMIN, as in a container
        if network == "relayed":
            raise _Refused(f"this machine allows no network namespaces ({error})") from error
        if user is not None:
            _name_by_descriptors(asked)
        return []
    return ["user", *_NAMES]


def _name_by_descriptors(asked: dict[str, Any]) -> None:
    """Open files that are to be read, and name them so: the other user has no way to some of the paths."""
    for path in asked["readable"]:
        if path in asked["argv"]:
            handle = os.open(path, os.O_RDONLY)
            os.set_inheritable(handle, True)
            asked["argv"] = [f"/proc/self/fd/{handle}" if each == path else each for each in asked["argv"]]


def unshare_as_user(namespaces: int) -> None:
    """Enter namespaces and a user namespace of their own, as the user that we are. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    kernel_calls.unshare(namespaces | kernel_calls.NEW_USER)
    _write("/proc/self/uid_map", f"{uid} {uid} 1\n")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{gid} {gid} 1\n")


def _write(path: str, text: str) -> None:
    """Write a file of proc(5), without loading a module. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _share_network(asked: dict[str, Any]) -> socket.socket | None:
    """Make the namespace's loopback usable, and pass sockets of it on; return the channel for connections."""
    bring_up_loopback()
    if (listen := asked["listen"]) is not None:
        with open_channel(listen["path"]) as channel:
            made = [socket.create_server((_ADDRESS, port), backlog=128) for port in listen["ports"]]
            socket.send_fds(channel, [b"l"], [each.fileno() for each in made])
            for each in made:
                each.close()
    return None if asked["connect"] is None else open_channel(asked["connect"]["path"])


def bring_up_loopback() -> None:
    """Make the loopback of a new network namespace usable (netdevice(7)). Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        fcntl.ioctl(card, _SET_FLAGS, struct.pack("16sh14x", b"lo", _IS_UP))


def open_channel(path: str) -> socket.socket:
    """Connect to a unix socket, whose path may be longer than an address of one."""
    folder, _, name = path.rpartition("/")
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(f"/proc/self/fd/{handle}/{name}")
    os.close(handle)
    return channel


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _give_up_privileges(user: int | None) -> None:
    """Become the user, if there is one, and have no capability, also after starting another program."""
    kernel_calls.drop_bounding_set()
    if user is not None and os.geteuid() == 0:
        _become(user)
    kernel_calls.drop_capabilities()


def _limit(*, other_user: bool) -> None:
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: _MOST_FILES}
    if other_user:  # counted for each user
        limits[resource.RLIMIT_NPROC] = _MOST_PROCESSES
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def make_connections(
    channel: socket.socket, address: str, ports: dict[str, int], descriptors: Sequence[int] = ()
) -> None:
    """Serve `network.port_forwarder` in a process of its own: connect to the port that it names.

    That one ends with QEMU, which this process becomes, and has no use for QEMU's `descriptors`. It must not
    load a module: Python's files may be outside of the private root.
    """
    parent = os.getpid()
    if os.fork():
        channel.close()
        return
    kernel_calls.end_with_parent(parent, signal.SIGKILL)
    for number in descriptors:
        os.close(number)
    while wanted := channel.recv(2, socket.MSG_WAITALL):
        with socket.socket() as made:
            made.settimeout(_CONNECT_SECONDS)
            try:
                made.connect((address, ports[str(int.from_bytes(wanted, "big"))]))
            except (OSError, KeyError):
                channel.sendall(b"n")
            else:
                made.settimeout(None)
                socket.send_fds(channel, [b"y"], [made.fileno()])
    os._exit(0)
