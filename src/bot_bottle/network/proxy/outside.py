"""Connections from this machine: to hosts outside, and to services of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

from bot_bottle.host.unix_sockets import short_path
from bot_bottle.network.dialing import Streams, connect, resolve
from bot_bottle.network.proxy.resolver import Resolver
from bot_bottle.network.proxy.upstream import Exceptions, Upstream

_SERVICE = 10.0  # seconds
_RESOLVE = 5.0  # seconds, where an upstream proxy resolves names, and this machine may not be able to
_PAUSE = 60.0  # seconds in which it is not tried again


class Outside:
    """How hosts outside are resolved and connected to.

    `upstreams` has the proxy for tunnels (`https`) and for plain requests (`http`), if there is one;
    `authorities` is a file of those by which its certificate is checked.
    """

    def __init__(
        self,
        resolver: Resolver | None = None,
        upstreams: Mapping[str, Upstream] | None = None,
        exceptions: Exceptions | None = None,
        authorities: str | None = None,
    ) -> None:
        self._resolve = resolve if resolver is None else resolver.resolve
        self._upstreams = upstreams or {}
        self._exceptions = exceptions or Exceptions("")
        self._authorities = authorities
        self._silent_until = 0.0

    @property
    def secrets(self) -> list[str]:
        """What must not be in a log."""
        return [each.authorization for each in self._upstreams.values() if each.authorization]

    def upstream(self, host: str, port: int, kind: str) -> Upstream | None:
        """Return the proxy by which a host is reached; None if it is reached directly."""
        return None if self._exceptions.match(host, port) else self._upstreams.get(kind)

    async def resolve(self, host: str, port: int, upstream: Upstream | None = None) -> list[str]:
        """Return the addresses of a host; none if only the upstream proxy can resolve it. Raises OSError."""
        if upstream is None:
            try:
                return await self._resolve(host, port)
            except OSError as error:
                raise OSError(f"it does not resolve: {error}") from error
        if time.monotonic() < self._silent_until:
            return []
        try:
            async with asyncio.timeout(_RESOLVE):
                return await self._resolve(host, port)
        except TimeoutError:
            self._silent_until = time.monotonic() + _PAUSE
        except OSError:
            pass
        return []

    async def connect(
        self,
        host: str,
        port: int,
        addresses: list[str],
        upstream: Upstream | None = None,
        *,
        plain: bool = False,
    ) -> Streams:
        """Connect to a host at one of its addresses, or by an upstream proxy. Raises OSError.

        For `plain` requests, the connection is to the proxy itself.
        """
        if upstream is None:
            return await connect(addresses, port)
        try:
            streams = await connect(await self._resolve(upstream.host, upstream.port), upstream.port)
        except OSError as error:
            raise OSError(f"the upstream proxy {upstream!r} cannot be reached: {error}") from error
        try:
            if upstream.secure:
                context = ssl.create_default_context(cafile=self._authorities)
                streams = await upstream.secured(streams, context)
            return streams if plain else await upstream.open_tunnel(streams, host, port)
        except BaseException:
            streams[1].transport.abort()
            raise

    async def connect_service(self, place: str) -> Streams:
        """Connect to a socket of this machine: a path, or an address with a port. Raises OSError."""
        async with asyncio.timeout(_SERVICE):
            if place.startswith("/"):
                with short_path(Path(place).parent) as folder:
                    return await asyncio.open_unix_connection(f"{folder}/{Path(place).name}")
            address, _, port = place.rpartition(":")
            if not ipaddress.ip_address(address).is_loopback:
                raise OSError(f"{address} is not this machine's loopback")
            return await asyncio.open_connection(address, int(port))
