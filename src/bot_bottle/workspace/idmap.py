"""Files of the caller that look like those of another user, such as the bottle's.

For a program: it runs in a user namespace (user_namespaces(7)) in which the caller's number has become that
user's. Files of the caller look like that user's, and what the program makes is the caller's. The caller
needs no privileges for this, and the program has no capability, in the namespace or outside it, even if the
caller is root.

For engines that run as root, whose containers have no user namespace of their own: an id-mapped mount
(mount_setattr(2), Linux 5.12) of a folder. What is root's in the folder is the user's on the mount, and the
other way round; all other owners are as they are. Only root can make one.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import paths, process
from bot_bottle.host.process import Child, CommandFailed
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import ALLOW_NAMESPACES
from bot_bottle.host.wait import wait_until

STRAY = "mount"

# numbers of system calls, the same on every architecture (syscalls(2)), and their flags (linux/mount.h)
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _CLOEXEC, _NOFOLLOW_LINK, _EMPTY_PATH = 0x1, os.O_CLOEXEC, 0x100, 0x1000
_FROM_EMPTY_PATH = 0x4
_AT_FDCWD = -100
_ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 0x2, 0x4, 0x100000
_DETACH, _NOFOLLOW = 2, 8
_ALL = (1 << 32) - 1

# flags of a file system that a namespace may not remove: they have to be repeated
_FLAGS = {
    os.ST_NOSUID: "nosuid",
    os.ST_NODEV: "nodev",
    os.ST_NOEXEC: "noexec",
    os.ST_NOATIME: "noatime",
    os.ST_NODIRATIME: "nodiratime",
    os.ST_RELATIME: "relatime",
}

# binds each path onto itself, read-only: PATH OPTIONS ... -- PROGRAM
_BIND_READ_ONLY = """\
while [ "$1" != -- ]; do
  mount --no-canonicalize --bind -- "$1" "$1" && mount --no-canonicalize -o "$2" -- "$1" || exit 125
  shift 2
done
shift
exec "$@"
"""


def as_user(uid: int, gid: int, kept: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return what to put before a command line to run its program with the caller's files as a user's.

    The program cannot change what is `kept`, whatever its user may do. Raises WorkspaceError when this
    machine does not allow it.
    """
    mapped = ("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--")
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")
    prefix: tuple[str, ...] = (*mapped, *bare)
    if kept:
        places = [part for path in kept for part in (str(path), _options(path))]
        own = ("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", _BIND_READ_ONLY, "sh")
        prefix = (*own, *places, "--", *prefix)
    try:
        process.run([*prefix, "true"], timeout=30)
    except CommandFailed as error:
        raise WorkspaceError(
            "cannot map your files to the bottle's user: user namespaces are not allowed here",
            why=error.why,
            next_step=ALLOW_NAMESPACES,
        ) from error
    return prefix


def _options(path: Path) -> str:
    flags = os.statvfs(path).f_flag
    return ",".join(["remount,bind,ro", *(name for flag, name in _FLAGS.items() if flags & flag)])


@contextmanager
def idmapped_mount(folder: Path, uid: int, gid: int, run: RunDir) -> Iterator[Path]:
    """Mount root's `folder` (or file) as that user's until the block ends, and yield the mount point.

    Raises WorkspaceError when the kernel or the file system cannot do it.
    """
    base = paths.state_dir() / "mounts"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = base / secrets.token_hex(8)
    run.record(STRAY, path=str(place))
    try:
        with defer_signals():
            place.mkdir(mode=0o700) if folder.is_dir() else place.touch(mode=0o600)
            with _namespace(uid, gid) as namespace:
                _mount(folder, place, namespace)
        yield place
    finally:
        with defer_signals():
            remove(place)


def sweep_mount(stray: dict[str, Any]) -> None:
    """Remove the mount that a killed command left (recorded as `mount`)."""
    remove(Path(stray["path"]))


def is_mounted(place: Path) -> bool:
    """Return whether something is mounted there; os.path.ismount overlooks mounts of the same file system.

    Source: proc_pid_mountinfo(5), the fifth field, in which \\ooo is an octal escape.
    """
    with Path("/proc/self/mountinfo").open("rb") as file:
        points = [line.split(b" ")[4] for line in file]
    plain = [re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), point) for point in points]
    return os.fsencode(place) in plain


def remove(place: Path) -> None:
    """Unmount and remove a mount point. What is mounted is never touched: its place cannot be removed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.umount2(os.fsencode(place), _DETACH | _NOFOLLOW)
    with suppress(FileNotFoundError):
        place.rmdir() if place.is_dir() else place.unlink()


def _mount(folder: Path, place: Path, namespace: int) -> None:
    try:
        flags = _CLONE | _CLOEXEC | _NOFOLLOW_LINK
        tree = _call("open_tree", _OPEN_TREE, _AT_FDCWD, os.fsencode(folder), flags)
        try:
            # struct mount_attr: attributes to set, to clear, propagation, the namespace with the map
            wanted = _ATTR_IDMAP | _ATTR_NOSUID | _ATTR_NODEV
            attributes = struct.pack("=QQQQ", wanted, 0, 0, namespace)
            _call("mount_setattr", _MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
            _call("move_mount", _MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(place), _FROM_EMPTY_PATH)
        finally:
            os.close(tree)
    except OSError as error:
        raise WorkspaceError(
            f"{folder} cannot be shown as the bottle's user's",
            why=f"{error}; linux 5.12 and a file system that knows idmapped mounts are needed",
            next_step="run the bottle as root with --user 0, or use --backend smolmachines",
        ) from error


def _call(name: str, number: int, *arguments: Any) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    typed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *typed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


@contextmanager
def _namespace(uid: int, gid: int) -> Iterator[int]:
    """Yield a descriptor of a user namespace whose map swaps root and the user."""
    with process.background(["unshare", "--user", "sleep", "60"]) as child:
        own = Path(f"/proc/{child.pid}")
        _wait_for_namespace(child, own)
        (own / "uid_map").write_text(_lines(uid))
        (own / "gid_map").write_text(_lines(gid))
        descriptor = os.open(own / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wait_for_namespace(child: Child, own: Path) -> None:
    mine = Path("/proc/self/ns/user").readlink()

    def is_there() -> bool:
        with suppress(OSError):
            return (own / "ns/user").readlink() != mine
        return False

    wait_until(lambda: is_there() or child.code is not None, 30, pause=0.002)
    if not is_there():
        raise WorkspaceError(
            "this machine allows no user namespaces", next_step="sysctl user.max_user_namespaces=10000"
        )


def swap_id_map(one: int, other: int) -> list[tuple[int, int, int]]:
    """Return a map that swaps two numbers and leaves all others: first inside, first outside, how many.

    Such are the lines of user_namespaces(7).
    """
    low, high = sorted((one, other))
    if low == high:
        return [(0, 0, _ALL)]
    parts = [(0, low), (low + 1, high), (high + 1, _ALL)]
    kept = [(start, start, end - start) for start, end in parts if end > start]
    return sorted([*kept, (low, high, 1), (high, low, 1)])


def _lines(number: int) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in swap_id_map(0, number))
