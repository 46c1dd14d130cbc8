"""Published ports of a bottle: on this machine's loopback only."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.host.text import printable
from bot_bottle.network.probes import PORTS
from bot_bottle.structs import replace

_LOOPBACK = ("127.0.0.1", "localhost")


class Port(Struct, frozen=True):
    """A TCP port of the bottle, and the port of 127.0.0.1 that leads to it; 0 means any free port."""

    host: int
    guest: int

    def describe(self) -> str:
        """Return a sentence that says where the port is reached."""
        return f"port {self.guest} of the bottle is on 127.0.0.1:{self.host}"

    def __str__(self) -> str:
        return f"{self.host}:{self.guest}" if self.host else str(self.guest)


def parse_ports(items: Iterable[str]) -> tuple[Port, ...]:
    """Parse `GUEST`, `HOST:GUEST` or `127.0.0.1:HOST:GUEST`, as docker does. Raises SpecError."""
    ports = tuple(dict.fromkeys(map(_parsed, items)))
    taken = [port.host for port in ports if port.host]
    if len(set(taken)) < len(taken):
        raise SpecError("the same host port is published twice")
    return ports


def _parsed(item: str) -> Port:
    parts = item.removesuffix("/tcp").split(":") if len(item) < 100 else []
    if item.endswith("/udp"):
        raise _refused(item, "UDP cannot be published")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[0-9]{1,5}", part) for part in parts[-2:] if part):
        raise _refused(item, "not a valid port")
    if len(parts) == 3 and parts[0] not in _LOOPBACK:
        raise _refused(item, "a bottle's ports are published on 127.0.0.1 only")
    host, guest = int(parts[-2] or 0) if len(parts) > 1 else 0, int(parts[-1] or 0)
    if not 0 < guest < 65536 or host > 65535:
        raise _refused(item, "ports are from 1 to 65535")
    return Port(host, guest)


def _refused(item: str, why: str) -> SpecError:
    return SpecError(
        f"cannot publish '{printable(item, limit=60)}'",
        why=why,
        next_step="write HOST:CONTAINER, for example 8080:3000",
    )


def allocate_host_ports(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Return the ports with a free host port in place of each 0. Raises SpecError for a port in use.

    The ports are not reserved: if another program takes one before the bottle starts, the start fails.
    """
    with ExitStack() as stack:
        found = {
            port: replace(port, host=stack.enter_context(listen(port)).getsockname()[1])
            for port in sorted(ports, key=lambda port: not port.host)  # requested host ports first
        }
    return tuple(found[port] for port in ports)


def listen(port: Port) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1. Raises SpecError for one in use."""
    why = ""
    for number in [port.host] if port.host else random.sample(PORTS, 100):
        listener = socket.socket()
        # connections that were closed a moment ago must not block the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
            listener.listen()
        except OSError as error:
            listener.close()
            why = f"host port {number}: {error.strerror}"
        else:
            return listener
    raise SpecError(
        f"cannot publish {port}",
        why=why,
        next_step=f"choose another host port, or write {port.guest} for any free port",
    )
