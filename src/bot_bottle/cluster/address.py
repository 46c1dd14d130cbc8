"""The address of a cluster, as --on takes it."""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from bot_bottle.errors import UsageError
from bot_bottle.host.text import printable

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


class Address(Struct, frozen=True):
    """A cluster on this machine, or the host and port of Ray's client server. `host` is "" for the former."""

    host: str = ""
    port: int = 0

    @property
    def ray(self) -> str:
        """The address as Ray writes it."""
        return f"ray://{self.host}:{self.port}" if self.host else "auto"

    def __str__(self) -> str:
        return self.ray if self.host else "ray"


def parse_address(text: str) -> Address:
    """Parse `ray` or `ray://HOST:PORT`. Raises UsageError."""
    if text == "ray":
        return Address()
    host, colon, port = text.removeprefix("ray://").rpartition(":")
    right = text.startswith("ray://") and colon and _HOST.fullmatch(host)
    if not right or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(
            f"not the address of a cluster: {printable(text, limit=100)!r}",
            next_step="write ray for a cluster on this machine, or ray://HOST:10001",
        )
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, or `localhost`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
