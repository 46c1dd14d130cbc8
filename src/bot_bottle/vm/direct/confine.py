"""How QEMU is confined: the command line of the process that confines itself and becomes QEMU.

A guest that takes over QEMU is a process of this machine then. What that process is left with: its own
folder, the files that it was given, and no network but what the bottle was allowed. Where we are root it is
another user, whom no other bottle has. It ends with us, also after a SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from bot_bottle.errors import WallsError
from bot_bottle.host import process
from bot_bottle.host.bare_helper import bare_helper
from bot_bottle.vm.direct.confinement import REPORT

Network = Literal["none", "relayed"]
"""`none`: no sockets but unix ones. `relayed`: a network namespace that only `Relay` leads out of and into,
which has to be there."""

_FIRST_DESCRIPTOR = 20  # of the files that QEMU inherits

# Users that no system and no other program hands out (systemd.io/UIDS-GIDS), as far as they exist here
_USERS = range(0x70000000, 0x7FFFFFFE)
_ATTEMPTS = 100

_REPORT_LIMIT = 1 << 16
_INTERPRETER = 3  # PT_INTERP, the dynamic loader (elf(5))
_LOADER_LIMIT = 4096
_TRIAL = 30.0  # seconds


class Relay(Struct, frozen=True):
    """What leads out of QEMU's network namespace, and into it.

    `listen` is a unix socket of ours, to which sockets are passed that listen on `port` of the namespace's
    loopback, and on `more`. `connect` is one of `network.port_forwarder`; `ports` maps the ports that it asks
    for to those on which QEMU listens, at the address PUBLISHED of the namespace.
    """

    listen: Path | None = None
    port: int = 0
    more: tuple[int, ...] = ()
    connect: Path | None = None
    ports: Mapping[int, int] = field(default_factory=dict)


class Confinement(Struct, frozen=True):
    """What is in force. `user` is QEMU's own (None: ours), `landlock` the kernel's version (0: none)."""

    user: int | None
    namespaces: tuple[str, ...]
    landlock: int
    seccomp: bool

    def missing(self) -> list[str]:
        """Return what this machine does not have of it, in words."""
        lacking = {
            "namespaces": bool(self.namespaces),
            "Landlock": bool(self.landlock),
            "a seccomp filter": self.seccomp,
        }
        return [name for name, there in lacking.items() if not there]

    def described(self) -> dict[str, object]:
        """Return it as a JSON document."""
        return {
            "user": self.user,
            "namespaces": list(self.namespaces),
            "landlock": self.landlock,
            "seccomp": self.seccomp,
        }


class Confined(Struct, frozen=True):
    """A program to start with `process.background`, in any folder. It writes to standard error what fails."""

    argv: list[str]
    folder: Path
    user: int | None

    def in_force(self) -> Confinement:
        """Read what is in force: once the program runs, and before its guest does. Raises WallsError."""
        try:
            with (self.folder / REPORT).open("rb") as file:
                found = json.loads(file.read(_REPORT_LIMIT))
            return Confinement(found["user"], tuple(found["namespaces"]), found["landlock"], found["seccomp"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WallsError("it is not known how QEMU is confined", why=str(error)) from error


@contextmanager
def confined(
    argv: Sequence[str],
    folder: Path,
    *,
    network: Network = "none",
    relay: Relay | None = None,
    disks: Mapping[Path, bool] | None = None,
    readable: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Confined]:
    """Yield the command line that runs `argv` confined, in `folder`; the user is taken until the block ends.

    The program may change `folder`, which is given to its user with the files in it, and nothing else. It may
    read `readable` (where we are root, their modes have to let others do so), and start itself. It gets
    `disks`, which may be private, as open files (True: to write); its arguments name them by their paths, in
    QEMU's way of writing them. Its environment is `env` and little else. It ends when the thread that starts
    it does. Raises WallsError.
    """
    program = Path(argv[0]).resolve()
    numbered = list(enumerate(_modes(disks or {}), _FIRST_DESCRIPTOR))
    loader = _loader(program)
    with ExitStack() as stack:
        user = stack.enter_context(_own_user()) if os.geteuid() == 0 else None
        asked = {
            "parent": os.getpid(),
            "user": user,
            "folder": str(folder.absolute()),
            "argv": [str(program), *_with_descriptors(argv[1:], disks or {}, numbered)],
            "env": dict(env or {}),
            "descriptors": [[number, str(path.absolute()), flags] for number, (path, flags) in numbered],
            "readable": [str(path.absolute()) for path in readable],
            "executable": [str(path) for path in (program, loader) if path is not None],
            "network": network,
            **_relayed(relay or Relay()),
        }
        start = bare_helper("bot_bottle.vm.direct.confine_helper", asked)
        yield Confined(process.ShownAs(start, argv), folder, user)


def try_confinement() -> Confinement:
    """Return what would be in force for QEMU here, without a network. Raises CommandFailed, WallsError."""
    with (
        tempfile.TemporaryDirectory(prefix="bot-bottle-") as folder,
        confined(["/bin/sh", "-c", ":"], Path(folder)) as made,
    ):
        process.run(made.argv, timeout=_TRIAL)
        return made.in_force()


def _relayed(relay: Relay) -> dict[str, Any]:
    listening = (relay.port, *relay.more)
    listen = {"path": str(relay.listen.absolute()), "ports": listening} if relay.listen else None
    ports = {str(guest): inner for guest, inner in relay.ports.items()}
    connect = {"path": str(relay.connect.absolute()), "ports": ports} if relay.connect else None
    return {"listen": listen, "connect": connect}


def _modes(disks: Mapping[Path, bool]) -> Iterator[tuple[Path, int]]:
    """Yield how each disk is opened; QEMU opens one to write for reading as well."""
    for path, writable in disks.items():
        yield path, os.O_RDONLY
        if writable:
            yield path, os.O_RDWR


def _with_descriptors(
    arguments: Sequence[str], disks: Mapping[Path, bool], numbered: Sequence[tuple[int, tuple[Path, int]]]
) -> list[str]:
    """Return QEMU's arguments with the disks named by sets of descriptors (its option -add-fd)."""
    sets = {path: number for number, path in enumerate(disks, 1)}
    options = [f"-add-fd fd={number},set={sets[path]}".split() for number, (path, _) in numbered]
    named = {str(path).replace(",", ",,"): f"/dev/fdset/{number}" for path, number in sets.items()}
    if not named:
        return list(arguments)
    pattern = re.compile("|".join(rf"(?<==){re.escape(path)}(?=,(?!,)|$)" for path in named))
    replaced = [pattern.sub(lambda found: named[found[0]], each) for each in arguments]
    return replaced + [word for option in options for word in option]


@contextmanager
def _own_user() -> Iterator[int]:
    """Yield the number of a user whom no other bottle has until the block ends."""
    candidates = _users()
    for _ in range(_ATTEMPTS):
        number = random.SystemRandom().choice(candidates)
        with socket.socket(socket.AF_UNIX) as mark:
            try:
                mark.bind(f"\0bot-bottle-user-{number}")  # the kernel releases it when we end
            except OSError:  # in use
                continue
            yield number
            return
    raise WallsError("found no user for QEMU that no other bottle has")


def _users() -> range:
    """Return the users that may be taken, of those that exist in our user namespace (user_namespaces(7))."""
    spans = []
    for line in Path("/proc/self/uid_map").read_text("ascii").splitlines():
        first, _, count = map(int, line.split())
        spans.append(range(first, first + count))
    for span in spans:
        if found := range(max(span.start, _USERS.start), min(span.stop, _USERS.stop)):
            return found
    widest = max(spans, key=len)
    if len(widest) < _MOST_KNOWN * 2:
        raise WallsError(
            "QEMU cannot have a user of its own",
            why="this user namespace has too few users",
            next_step="run bottle as an ordinary user",
        )
    return range(max(widest.start, widest.stop - _MOST_KNOWN), widest.stop - 2)


_MOST_KNOWN = 4096


def _loader(program: Path) -> Path | None:
    """Return the dynamic loader that the kernel starts for a program; None if it has none."""
    with program.open("rb") as file:
        head = file.read(_LOADER_LIMIT)
        if head[:6] != b"\x7fELF\2\1":  # not of 64 bits, little-endian
            return None
        [offset] = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for index in range(count):
            file.seek(offset + index * size)
            kind, _, start, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _INTERPRETER:
                file.seek(start)
                return Path(os.fsdecode(file.read(min(length, _LOADER_LIMIT)).rstrip(b"\0")))
    return None
