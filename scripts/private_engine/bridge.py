"""A network bridge, made by the kernel's ioctl interface, so that no program of iproute2 is needed."""

from __future__ import annotations

import contextlib
import fcntl
import random
import socket
import struct
from pathlib import Path

# linux/sockios.h
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCBRADDBR, SIOCBRDELBR = 0x8916, 0x891C, 0x8914, 0x89A0, 0x89A1
IFF_UP = 1


class Bridge:
    """The bridge named `name` (15 bytes at most), with a network of 256 addresses that no route is for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self) -> None:
        """Make it and bring it up. Raises OSError where the kernel will not."""
        with _control() as control:
            fcntl.ioctl(control, SIOCBRADDBR, self.name.encode() + b"\0")
            self._change(control, SIOCSIFFLAGS, struct.pack("h", IFF_UP))
            network = _free_network()
            while True:
                self._change(control, SIOCSIFADDR, _sockaddr(network + b"\1"))
                self._change(control, SIOCSIFNETMASK, _sockaddr(b"\xff\xff\xff\0"))
                if _routed().count(network) == 1:
                    return
                network = _free_network()  # another engine took the same one at the same moment

    def remove(self) -> None:
        """Remove it, if it is there."""
        with contextlib.suppress(OSError), _control() as control:
            self._change(control, SIOCSIFFLAGS, struct.pack("h", 0))
            fcntl.ioctl(control, SIOCBRDELBR, self.name.encode() + b"\0")

    def _change(self, control: socket.socket, request: int, value: bytes) -> None:
        # struct ifreq, netdevice(7)
        fcntl.ioctl(control, request, struct.pack("16s24s", self.name.encode(), value))


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _sockaddr(address: bytes) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, address)


def _free_network() -> bytes:
    """Give the first three bytes of a network in 10.213.0.0/16 that no route is for, any of them."""
    routed = _routed()
    free = [net for net in (bytes([10, 213, third]) for third in range(256)) if net not in routed]
    return random.choice(free)  # noqa: S311 - no secret


def _routed() -> list[bytes]:
    """Give the first three bytes of every route's network."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    return [bytes.fromhex(line.split()[1])[::-1][:3] for line in lines]  # little-endian
