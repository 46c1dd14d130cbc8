"""The process between QEMU and passt, as `vm.direct.open_network` starts it: it starts passt, and filters.

Both speak in frames, each after its length of four bytes. Those of the guest are passed on as `frames` says,
one at a time, since passt reads a frame that comes in pieces wrongly at times; those of passt as they come.
It has no capability, opens no file and makes no socket, as far as this machine has Landlock and seccomp
filters. It ends with its parent, with QEMU and with passt; and passt ends with it, when its socket is closed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from bot_bottle.vm.direct import kernel_calls, restrictions
from bot_bottle.vm.direct.passt import SOCKET
from bot_bottle.vm.direct.passt.frames import ARP, GATEWAY, GUEST, HEADER, LONGEST, is_passed

FAILED = 125  # the exit status when passt or its filter did not start

_GUEST_ADDRESS = bytes.fromhex("525400123456")  # which QEMU gives a first card
_START = 30_000  # ms
_PIECE = 1 << 18
_WAITING = 1 << 20  # bytes that passt may have sent: it drops what does not fit
_PREFIX = 4  # bytes, of a frame's length
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}  # of passt: none of ours, which may be secrets


def main() -> None:
    """Serve as the JSON document in the first argument says."""
    asked = json.loads(sys.argv[1])
    try:
        kernel_calls.end_with_parent(asked["parent"], signal.SIGKILL)
        os.chdir(asked["folder"])  # a socket's path is short
        plug = _start(asked["passt"])
        _wait(plug)
        listener = _listen()
        _confine(asked["parent"])
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(FAILED)
    with listener:
        qemu, _ = listener.accept()
    threading.Thread(target=_end_after, args=(_hand_over, plug, qemu), daemon=True).start()
    _end_after(pass_on, qemu, plug)


def _end_after(work: Callable[[socket.socket, socket.socket], bool], *sockets: socket.socket) -> NoReturn:
    """End this process when the work is over, with 0 if that is because QEMU has ended."""
    os._exit(0 if work(*sockets) else FAILED)


def _start(argv: list[str]) -> socket.socket:
    """Start passt, and return the socket on which it speaks. Raises OSError."""
    ours, its = socket.socketpair()
    its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING)
    if os.fork():
        its.close()
        return ours
    ours.close()
    its.set_inheritable(True)
    try:
        os.execve(argv[0], [*argv, "--fd", str(its.fileno())], _ENVIRONMENT)  # noqa: S606 - no shell
    except OSError as error:
        sys.stderr.write(f"{argv[0]} could not be started: {error.strerror}\n")
    os._exit(FAILED)


def _wait(plug: socket.socket) -> None:
    """Wait until passt answers: it is asked for its own hardware address (RFC 826). Raises OSError."""
    asked = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + _GUEST_ADDRESS + GUEST.packed
    frame = b"\xff" * 6 + _GUEST_ADDRESS + ARP + asked + bytes(6) + GATEWAY.packed
    plug.sendall(len(frame).to_bytes(_PREFIX, "big") + frame)
    poller = select.poll()
    poller.register(plug, select.POLLIN)
    if not poller.poll(_START):
        raise OSError("passt does not answer")
    if not _received(plug):
        raise OSError("passt has ended")


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{SOCKET}.new")
    listener.listen(1)
    os.rename(f"{SOCKET}.new", SOCKET)  # noqa: PTH104 - pathlib takes its time to load
    return listener


def _confine(parent: int) -> None:
    """Drop all rights. Raises OSError."""
    kernel_calls.drop_bounding_set()
    kernel_calls.drop_capabilities()
    kernel_calls.end_with_parent(parent, signal.SIGKILL)  # a change of rights undoes it
    kernel_calls.forbid_new_privileges()
    restrictions.make_rules((), tcp=False).enforce()
    restrictions.restrict_calls(())


def pass_on(qemu: socket.socket, passt: socket.socket) -> bool:
    """Pass the guest's frames on until one of the two has ended; return whether it is QEMU.

    QEMU is not what it was when it sends something else than frames.
    """
    held = bytearray()
    while data := _received(qemu):
        held += data
        start = 0
        while len(held) - start >= _PREFIX:
            length = int.from_bytes(held[start : start + _PREFIX], "big")
            if not HEADER <= length <= LONGEST:
                return False
            end = start + _PREFIX + length
            if end > len(held):
                break
            if is_passed(bytes(held[start + _PREFIX : end])) and not _sent(passt, held[start:end]):
                return False
            start = end
        del held[:start]
    return True


def _hand_over(passt: socket.socket, qemu: socket.socket) -> bool:
    """Pass all on that comes from passt until one of the two has ended; return whether it is QEMU."""
    while data := _received(passt):
        if not _sent(qemu, data):
            return True
    return False


def _received(source: socket.socket) -> bytes:
    """Return what has come, nothing if the other side has ended."""
    try:
        return source.recv(_PIECE)
    except OSError:
        return b""


def _sent(target: socket.socket, data: bytes | bytearray) -> bool:
    """Send all of it; return whether the other side is there."""
    try:
        target.sendall(data)
    except OSError:
        return False
    return True
