"""The way to the proxy from a microVM of smolvm: connections that smolvm hands over, questions for names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from bot_bottle.network.interceptor import ACCEPTED, HOST, PROVED, PROXY, ProtocolError, read_head
from bot_bottle.network.policy import Policy
from bot_bottle.network.proxy.engine import Engine
from bot_bottle.network.proxy.server import serve_proxy
from bot_bottle.network.proxy.transparent import serve_transparent
from bot_bottle.network.proxy.tunnel import serve_tunnel
from bot_bottle.network.proxy_address import PORT

_USUAL_PORT = 443  # of a rule without a port
_SECONDS = 10.0
_PROOF = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Interceptor:
    """Serves the connections of one smolvm, which has the token."""

    def __init__(self, engine: Engine, token: str) -> None:
        self._engine = engine
        self._token = token

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; one without the token is closed without an answer."""
        try:
            destination = await read_head(reader, self._token)
        except ProtocolError:
            writer.transport.abort()
            return
        writer.write(ACCEPTED)
        address, port = destination.address, destination.port
        if (address, port) == (PROXY, PORT):
            await serve_proxy(self._engine, reader, writer)
        elif address in (HOST, PROXY):
            await self._serve_service(reader, writer, address, port)
        elif address == PROVED:
            await _prove(reader, writer)
        else:
            await serve_transparent(self._engine, reader, writer, address, port)

    async def _serve_service(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int
    ) -> None:
        """Serve a service of this machine; where several have the port, the requested name says which."""
        names = self._engine.services_at(port) if address == HOST else []
        if len(names) == 1:
            await serve_tunnel(self._engine, reader, writer, names[0], port)
        elif names:
            await serve_transparent(self._engine, reader, writer, address, port)
        else:
            self._engine.refuse(address, port, "there is no such service in this bottle")
            writer.transport.abort()

    async def find(self, name: str) -> Sequence[str]:
        """Return the addresses of a name that is allowed at some port, for a name server.

        Raises LookupError for any other, OSError where it cannot be resolved.
        """
        engine = self._engine
        if engine.is_service(name):
            return [HOST]
        ports = _ports(engine.policy)
        port = next((port for port in ports if engine.policy.decide(name, port).allowed), None)
        if port is None:
            raise LookupError(name)
        found = await engine.resolve(name, port)
        verdicts = {address: engine.policy.decide_resolved(address, port) for address in found}
        allowed = [address for address, verdict in verdicts.items() if verdict.allowed]
        if found and not allowed:
            engine.refuse(name, port, verdicts[found[0]].reason)
        return allowed


def _ports(policy: Policy) -> Sequence[int]:
    """Return ports of which one is allowed for each name that is allowed at all."""
    return sorted({rule.port or _USUAL_PORT for rule in policy.rules}) or [_USUAL_PORT]


async def _prove(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request, whatever it is for."""
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_PROOF)
            await writer.drain()
    writer.close()
