"""A network bridge, made by the kernel's ioctl interface, so that no program of iproute2 is needed."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct

# linux/sockios.h
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS, SIOCBRADDBR, SIOCBRDELBR = 0x8916, 0x891C, 0x8914, 0x89A0, 0x89A1
IFF_UP = 1


class Bridge:
    """The bridge named `name` (15 bytes at most), with the address `address` in a network of 256."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def make(self) -> None:
        """Make it and bring it up. Raises OSError where the kernel will not."""
        with _control() as control:
            fcntl.ioctl(control, SIOCBRADDBR, self.name.encode() + b"\0")
            self._change(control, SIOCSIFADDR, _sockaddr(self.address))
            self._change(control, SIOCSIFNETMASK, _sockaddr("255.255.255.0"))
            self._change(control, SIOCSIFFLAGS, struct.pack("h", IFF_UP))

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


def _sockaddr(dotted: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(dotted))
