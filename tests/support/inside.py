"""What a command finds of its surroundings and what it may do there, as JSON: run as a program in a bottle.

It knows nothing of the project: a plain Python runs it. Nothing that is tried changes anything that lasts.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

Found = Iterator[tuple[str, str]]

LIBC = ctypes.CDLL(None, use_errno=True)
# would end, stop or double the program that tries it: rt_sigreturn, pause, fork, vfork, exit, exit_group
UNTRIED = frozenset({15, 34, 57, 58, 60, 231})
CALLS = range(470)
CLONE, KEYCTL = 56, 250
NAMESPACES = {
    "mount": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
# numbers that every process has of its own, and what counts how the kernel is used
OWN_STATUS = re.compile(r"Vm|Rss|Huge|FDSize|SigQ|Threads|.*ctxt|Name|State|NS|Tgid|Ngid|Pid|PPid|Mems|Cpus")
COUNTERS = re.compile(r"dentry-state|file-nr|inode-(nr|state)|quota/|random/|ns_last_pid|lease-time|pty/nr")
ID = re.compile(r"[0-9a-f]{12,64}")


def met(attempt: Callable[[], object]) -> str:
    """Try something, and give the name of the error that it met."""
    try:
        attempt()
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, str(failure))
    except ValueError:  # setrlimit's word for EPERM
        return "EPERM"
    return "ok"


def apart(attempt: Callable[[], object]) -> str:
    """Try something in a child, for which it may be the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        os.write(writing, met(attempt).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        word = pipe.read()
    _, status = os.waitpid(pid, 0)
    return word or f"signal {os.WTERMSIG(status)}"


def call(number: int, *arguments: int) -> int:
    """Make a system call. Raises OSError."""
    result: int = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result


def clone(flag: int) -> None:
    """Make a process in a namespace of its own."""
    if call(CLONE, flag | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def opened(path: Path, how: int) -> None:
    """Open a file and close it."""
    os.close(os.open(path, how | os.O_NONBLOCK))


def first(path: Path) -> bytes:
    """Give the first byte of a file, if it has one by now."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(handle, 1)
    except BlockingIOError:
        return b"?"
    finally:
        os.close(handle)


def text(path: Path) -> str:
    """Give a file's text, or the error in its place."""
    try:
        return path.read_text("utf-8", "replace").strip("\0\n")
    except OSError as failure:
        return errno.errorcode.get(failure.errno or 0, str(failure))


def system_calls() -> Found:
    """Whether each call comes to the kernel: no call takes -1 for all that it is given."""
    for number in CALLS:
        if number not in UNTRIED:
            refused = apart(partial(call, number, *[-1] * 6)) in ("EPERM", "EACCES", "ENOSYS")
            yield f"call {number}", "refused" if refused else "taken"
    for name, flag in NAMESPACES.items():
        yield f"new namespace {name}", apart(partial(clone, flag))
    for family in range(46):
        made = "ok" in {met(partial(socket.socket, family, kind)) for kind in KINDS}
        yield f"socket family {family}", "made" if made else "refused"


def process() -> Found:
    """What the kernel says of this process."""
    fields = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    yield from ((f"status {name}", value.strip()) for name, value in fields if not OWN_STATUS.match(name))
    for name in [name for name in dir(resource) if name.startswith("RLIMIT_")]:
        yield f"limit {name}", str(resource.getrlimit(getattr(resource, name)))
    for name in ("oom_score_adj", "uid_map", "attr/current"):
        yield name, " ".join(text(Path("/proc/self", name)).split())
    yield "nice", str(os.nice(0))
    yield "scheduler", str(os.sched_getscheduler(0))
    yield "groups", str(sorted(os.getgroups()))
    yield "variables", " ".join(sorted(os.environ))
    yield "host name", os.uname().nodename
    paths = {ID.sub("ID", line.split(":", 2)[2]) for line in text(Path("/proc/self/cgroup")).splitlines()}
    yield "cgroup", " ".join(sorted(paths))
    for path in Path("/proc/self/ns").iterdir():
        yield f"namespace {path.name}", str(path.readlink())
    others = (text(each / "comm") for each in Path("/proc").glob("[0-9]*") if each.name != str(os.getpid()))
    yield "other programs", " ".join(sorted(others))


def mounts() -> Found:
    """What is mounted where and how. A path that is masked or cannot be written to is a mount too."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place, options = before.split()[4:6]
        yield (
            f"mount {place}",
            " ".join([after.split()[0], *sorted({*options.split(",")} - {"relatime", "rw"})]),
        )


def devices() -> Found:
    """What is in /dev, and what of it can be opened."""
    for folder, folders, files in os.walk("/dev"):
        for path in (Path(folder, name) for name in (*folders, *files)):
            status = path.lstat()
            number = f" {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if status.st_rdev else ""
            yield str(path), f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}{number}"
            if stat.S_ISCHR(status.st_mode) and path.name not in ("tty", "console"):
                yield f"open {path}", met(partial(opened, path, os.O_RDWR))


def kernel_files() -> Found:
    """What of /proc can be read, and what of it and of /sys can be changed."""
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() and not path.is_symlink():
            look: Callable[[], object] = partial(os.scandir if path.is_dir() else first, path)
            seen = met(look)
            empty = seen == "ok" and (not any(path.iterdir()) if path.is_dir() else not first(path))
            yield f"read {path}", "empty" if empty else seen
    for top in ("/proc/sys", "/sys"):
        for folder, _, files in os.walk(top):
            for path in (Path(folder, name) for name in files):
                if top == "/proc/sys" and not COUNTERS.search(str(path)):
                    yield f"value {path}", text(path)
                if met(partial(opened, path, os.O_WRONLY)) == "ok":
                    yield f"write {path}", "ok"


def attempts() -> Found:
    """What an ordinary user may do nowhere, and root in a container only to the container."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "make a device", met(partial(os.mknod, "/tmp/device", 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
    yield "change root", apart(partial(os.chroot, "/tmp"))
    yield "set the host name", met(partial(socket.sethostname, socket.gethostname()))
    yield "be nicer", apart(partial(os.nice, -5))
    yield "raise a limit", apart(partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard + 1)))
    yield "bind to port 80", met(partial(socket.create_server, ("127.0.0.1", 80)))
    yield "write to /root", met(Path("/root/made").touch)
    yield "write to /", met(Path("/made").touch)
    yield "own another's file", met(partial(os.chown, "/etc/passwd", 1000, 1000))
    yield "get the session's keyring", apart(partial(call, KEYCTL, 0, -3, 0))
    yield "make a session keyring", apart(partial(call, KEYCTL, 1, 0))
    yield "keys", text(Path("/proc/keys"))


if __name__ == "__main__":
    parts = (process, mounts, devices, kernel_files, attempts, system_calls)
    json.dump(dict(each for part in parts for each in part()), sys.stdout)
