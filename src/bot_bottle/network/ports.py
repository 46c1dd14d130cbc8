"""Ports of a bottle that this machine reaches: on its loopback, and nowhere else."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bot_bottle.errors import SpecError
from bot_bottle.host.text import printable
from bot_bottle.network.probes import PORTS

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port of the bottle, and the one of 127.0.0.1 that leads to it; 0 is any that is free."""

    host: int
    guest: int

    def told(self) -> str:
        """Say where it is reached."""
        return f"port {self.guest} of the bottle is on 127.0.0.1:{self.host}"

    def __str__(self) -> str:
        return f"{self.host}:{self.guest}" if self.host else str(self.guest)


def parse_ports(items: Iterable[str]) -> tuple[Port, ...]:
    """Read `GUEST`, `HOST:GUEST` or `127.0.0.1:HOST:GUEST`, as docker does. Raises SpecError."""
    ports = tuple(dict.fromkeys(map(_parsed, items)))
    taken = [port.host for port in ports if port.host]
    if len(set(taken)) < len(taken):
        raise SpecError("two ports of the bottle cannot be one of this machine")
    return ports


def _parsed(item: str) -> Port:
    parts = item.removesuffix("/tcp").split(":") if len(item) < 100 else []
    if item.endswith("/udp"):
        raise _refused(item, "UDP cannot be published")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[0-9]{1,5}", part) for part in parts[-2:] if part):
        raise _refused(item, "it is no port")
    if len(parts) == 3 and parts[0] not in _LOOPBACK:
        raise _refused(item, "a bottle's ports are for this machine alone, on 127.0.0.1")
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


def settled(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Give ports that are all free on this machine: for 0 one that is. Raises SpecError for one that is not.

    They are not held: whoever takes one before the bottle does, ends its start.
    """
    with ExitStack() as stack:
        found = {
            port: replace(port, host=stack.enter_context(_listener(port)).getsockname()[1])
            for port in sorted(ports, key=lambda port: not port.host)  # what is named before what may be any
        }
    return tuple(found[port] for port in ports)


def _listener(port: Port) -> socket.socket:
    why = ""
    for number in [port.host] if port.host else random.sample(PORTS, 100):
        listener = socket.socket()
        # what was connected to it a moment ago is no hindrance
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
            listener.listen()
        except OSError as error:
            listener.close()
            why = f"port {number} of this machine: {error.strerror}"
        else:
            return listener
    raise SpecError(
        f"cannot publish {port}",
        why=why,
        next_step=f"name another, or write {port.guest} alone for any that is free",
    )
