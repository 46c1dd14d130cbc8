"""Connections from this machine: to hosts outside, and to services of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from bot_bottle.host.files import open_folder
from bot_bottle.network.dialing import Streams, connect, resolve

_TIMEOUT = 10.0  # seconds, for a service


class Outside:
    """How hosts outside are resolved and connected to."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. Raises OSError."""
        try:
            return await resolve(host, port)
        except OSError as error:
            raise OSError(f"it does not resolve: {error}") from error

    async def connect(self, host: str, port: int, addresses: list[str]) -> Streams:  # noqa: ARG002
        """Connect to a host at one of its addresses. Raises OSError."""
        return await connect(addresses, port)

    async def connect_service(self, place: str) -> Streams:
        """Connect to a socket of this machine: a path, or an address with a port. Raises OSError."""
        async with asyncio.timeout(_TIMEOUT):
            if place.startswith("/"):
                with open_folder(str(Path(place).parent)) as folder:  # a socket's path has 107 bytes at most
                    return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{Path(place).name}")
            address, _, port = place.rpartition(":")
            if not ipaddress.ip_address(address).is_loopback:
                raise OSError(f"{address} is not this machine's loopback")
            return await asyncio.open_connection(address, int(port))
