"""Ports of a bottle that this machine reaches: on its loopback, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bot_bottle.errors import SpecError

_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port of the bottle, and the one of 127.0.0.1 that leads to it; 0 is any that is free."""

    host: int
    guest: int

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
    shown = "".join(char if char.isprintable() else "?" for char in item[:60])
    return SpecError(
        f"cannot publish {shown!r}", why=why, next_step="write it as 8080:3000, this machine's first"
    )
