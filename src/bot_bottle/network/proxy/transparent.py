"""Connections that arrive with an address only, as from a machine that knows nothing of a proxy.

The name is in what the client says first: the server name of TLS, or the Host of a request. It is resolved
anew, here, and the connection goes to what it resolves to. Without an allowed one the address itself has to
be allowed, or be one that an allowed name has.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress

import h11

from bot_bottle.network.proxy.client_hello import parse_client_hello
from bot_bottle.network.proxy.engine import Engine
from bot_bottle.network.proxy.first_bytes import LARGEST, classify
from bot_bottle.network.proxy.relay import CHUNK
from bot_bottle.network.proxy.request_head import header, parse_authority
from bot_bottle.network.proxy.tunnel import serve_tunnel

_SILENCE = 0.3  # seconds; a client that says nothing then waits for its server to begin, as with SSH
_PATIENCE = 20.0  # seconds, where only a name in what it says could be allowed: an emulated client is slow
_MOST_NAMES = 64  # that are resolved to find the one of an address


async def serve_transparent(
    engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int
) -> None:
    """Serve a connection that was opened to an address, until it has ended."""
    try:
        first, name = await _beginning(reader, _SILENCE)
        if not first and not await _is_known(engine, address, port):
            first, name = await _beginning(reader, _PATIENCE)
    except (OSError, ValueError) as error:
        engine.refuse(address, port, f"invalid TLS or HTTP: {error}")
        writer.transport.abort()
        return
    if engine.decide(address, port).allowed:
        # what is allowed as an address passes, whatever name is used for it
        name = name if name and engine.decide(name, port).allowed else ""
    elif not name:
        name = await _name_of(engine, address, port)
    await serve_tunnel(engine, reader, writer, name or address, port, hello=first)


async def _is_known(engine: Engine, address: str, port: int) -> bool:
    """Return whether an address can be decided about without a name."""
    return engine.decide(address, port).allowed or bool(await _name_of(engine, address, port))


async def _beginning(reader: asyncio.StreamReader, seconds: float) -> tuple[bytes, str]:
    """Return what the client says first, within some time, and the name in it. Raises OSError, ValueError."""
    first = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            first = await reader.read(CHUNK)
    while first:
        kind = classify(first)
        name: str | None = ""
        if kind == "tls":
            hello = parse_client_hello(first)
            name = hello.server_name if hello is not None else ""
        elif kind == "http":
            name = _host(first)
        if kind is not None and name is not None:
            return first, name
        if not (more := await reader.read(CHUNK)):
            return first, ""
        first += more
    return first, ""


def _host(first: bytes) -> str | None:
    """Return the host of a request; None if its head is not complete. Raises ValueError."""
    http = h11.Connection(h11.SERVER, LARGEST)
    try:
        http.receive_data(first)
        event = http.next_event()
    except h11.RemoteProtocolError as error:
        raise ValueError(str(error)) from error
    if not isinstance(event, h11.Request):
        return None
    named = header(event, b"host").decode("ascii")
    return parse_authority(named, 80)[0] if named else ""


async def _name_of(engine: Engine, address: str, port: int) -> str:
    """Return an allowed name that resolves to an address; "" if there is none."""
    sought = ipaddress.ip_address(address)
    names = engine.policy.names(port)[:_MOST_NAMES]
    found = await asyncio.gather(*(engine.resolve(name, port) for name in names))
    for name, addresses in zip(names, found, strict=True):
        if sought in map(ipaddress.ip_address, addresses):
            return name
    return ""
