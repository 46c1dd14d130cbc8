"""Requests for files of package registries, which the proxy makes for itself, with TLS.

Nothing of a bottle's request is in them but host and path, in one spelling, and nothing else is sent over
their connections. So no header of a bottle can change a response, and no other request can be mistaken for
one of these.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import h11

from bot_bottle.network.caches import PackageFile
from bot_bottle.network.proxy.exchange import Server, next_event
from bot_bottle.version import VERSION

if TYPE_CHECKING:
    from bot_bottle.network.proxy.engine import Engine

_TIMEOUT = 60.0  # seconds in which a registry has to go on
_MOST_IDLE = 16  # connections to one registry that wait for another request
_HTTPS = 443


class RegistryClient:
    """A client for one proxy. `authorities` is a file of those that registries are checked against."""

    def __init__(self, engine: Engine, authorities: str | None) -> None:
        self._engine, self._authorities = engine, authorities
        self._context: ssl.SSLContext | None = None
        self._idle: dict[tuple[str, int], list[Server]] = {}

    async def request(self, file: PackageFile) -> tuple[Server, h11.Response]:
        """Request a file; return the head of the response. Raises RefusedError."""
        while (server := self._take(file)) is not None:
            try:
                return server, await _ask(server, file)
            except (OSError, h11.ProtocolError):  # the registry has closed it meanwhile
                server.streams[1].transport.abort()
        context = self._tls()
        streams = await self._engine.connect_with_tls(file.host, file.port, context)
        server = Server((file.host, file.port), streams)
        try:
            return server, await _ask(server, file)
        except (OSError, h11.ProtocolError) as error:
            streams[1].transport.abort()
            reason = f"no response in HTTP: {error or type(error).__name__}"
            raise self._engine.fail(file.host, file.port, reason) from error

    async def read(self, server: Server) -> AsyncGenerator[bytes, None]:
        """Yield the body of a response. Raises OSError, h11.ProtocolError where it is cut off."""
        try:
            while isinstance(event := await _next(server), h11.Data):
                yield bytes(event.data)
            if {server.http.our_state, server.http.their_state} == {h11.DONE}:
                server.http.start_next_cycle()
        finally:
            idle = self._idle.setdefault(server.origin, [])
            if server.usable and len(idle) < _MOST_IDLE:
                idle.append(server)
            else:
                server.streams[1].transport.abort()

    def _take(self, file: PackageFile) -> Server | None:
        idle = self._idle.get((file.host, file.port), [])
        while idle:
            if (server := idle.pop()).usable:
                return server
            server.streams[1].transport.abort()
        return None

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._authorities)
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


async def _ask(server: Server, file: PackageFile) -> h11.Response:
    """Send the request for a file; return the head of the response. Raises OSError, h11.ProtocolError."""
    host = file.host if file.port == _HTTPS else f"{file.host}:{file.port}"
    headers = [("Host", host), ("User-Agent", f"bot-bottle/{VERSION}"), ("Accept", "*/*")]
    request = h11.Request(
        method="GET", target=file.target, headers=[*headers, ("Accept-Encoding", "identity")]
    )
    writer = server.streams[1]
    writer.write((server.http.send(request) or b"") + (server.http.send(h11.EndOfMessage()) or b""))
    while True:
        event = await _next(server)
        if isinstance(event, h11.Response):
            return event
        if not isinstance(event, h11.InformationalResponse):
            raise OSError("the registry has closed the connection")


async def _next(server: Server) -> object:
    """Return what comes next from a registry. Raises OSError, h11.ProtocolError."""
    async with asyncio.timeout(_TIMEOUT):
        return await next_event(server.http, server.streams[0])
