"""One connection to one destination: decided about, made, looked at, and passed on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bot_bottle.network.audit_log import Request
from bot_bottle.network.dialing import Streams
from bot_bottle.network.policy import Verdict
from bot_bottle.network.proxy.client_hello import parse_client_hello
from bot_bottle.network.proxy.engine import Engine, RefusedError
from bot_bottle.network.proxy.first_bytes import Kind, classify
from bot_bottle.network.proxy.plain_http import serve_requests
from bot_bottle.network.proxy.relay import CHUNK, Counts, relay

# how a client is answered: that its connection is made, or why it is not
Reply = Callable[[RefusedError | None], Awaitable[None]]


async def serve_tunnel(
    engine: Engine,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    port: int,
    *,
    hello: bytes = b"",
    reply: Reply | None = None,
) -> None:
    """Serve a connection to a name or address, until it has ended; `hello` was already read from it.

    Without `reply` a refused one is reset: its client expects no words of a proxy.
    """
    host = host.lower().removesuffix(".")
    try:
        verdict = await engine.permit(host, port)
        server = None if engine.caches(host, port) else await engine.connect(host, port)
    except RefusedError as error:
        if reply is None:
            writer.transport.abort()
        else:
            await reply(error)
        return
    tunnel = _Tunnel(engine, (reader, writer), server, host, port, verdict)
    try:
        if reply is not None:
            await reply(None)
        await tunnel.serve(hello)
    finally:
        tunnel.close()


class _Tunnel:
    """A connection to an allowed destination, and the one that was made for it.

    Where requests may be answered from the cache, none is made before it is needed.
    """

    def __init__(
        self, engine: Engine, client: Streams, server: Streams | None, host: str, port: int, verdict: Verdict
    ) -> None:
        self._engine, self._client, self._server = engine, client, server
        self._host, self._port, self._verdict = host, port, verdict
        self._start = time.monotonic()
        self._counts = Counts()

    async def serve(self, first: bytes) -> None:
        """Pass on, or read, as the policy says."""
        host, port = self._host, self._port
        if self._engine.passes_unchecked(host, port):
            await self._pass(first)
            return
        try:
            kind, first = await self._look(first)
            self._check(kind, first)
        except RefusedError:
            return
        if not first and self._engine.reads(host, port):
            return  # it has ended without a word
        if kind == "http":
            await serve_requests(self._engine, self._client, first, self._server, (host, port), self._verdict)
        elif self._engine.reads(host, port):
            await self._read(first)
        else:
            await self._pass(first)

    async def _read(self, first: bytes) -> None:
        host, port = self._host, self._port
        if self._engine.reading is None:
            self._engine.refuse(
                host, port, "requests to it have to be read, which this bottle is not made for"
            )
            return
        reader = await self._engine.reading.reader(self._engine)
        await reader.serve(self._client, first, self._server, host, port)

    def close(self) -> None:
        """Close both connections."""
        for streams in filter(None, (self._client, self._server)):
            streams[1].transport.abort()

    async def _pass(self, first: bytes) -> None:
        if self._server is None:
            try:
                self._server = await self._engine.connect(self._host, self._port)
            except RefusedError:
                return
        try:
            await relay(self._client, self._server, self._counts, first)
        finally:
            self._engine.record(
                Request(
                    self._host,
                    self._port,
                    "allowed",
                    rule=self._verdict.rule,
                    up=self._counts.up,
                    down=self._counts.down,
                    seconds=time.monotonic() - self._start,
                )
            )

    async def _look(self, first: bytes) -> tuple[Kind, bytes]:
        """Return what the client begins with; what a server says before is passed on.

        Raises RefusedError for an invalid beginning.
        """
        server = None if self._engine.reads(self._host, self._port) else self._server
        greeting = None if server is None else asyncio.create_task(self._greet(server))
        try:
            while (kind := classify(first)) is None:
                more = await self._client[0].read(CHUNK)
                if not more:
                    if first[:1] == b"\x16":
                        raise ValueError("the ClientHello is incomplete")
                    return "other", first
                first += more
            return kind, first
        except ValueError as error:
            raise self._engine.refuse(self._host, self._port, f"invalid TLS: {error}") from error
        except OSError as error:
            raise RefusedError(str(error)) from error
        finally:
            if greeting is not None:
                greeting.cancel()
                await asyncio.wait([greeting])

    async def _greet(self, server: Streams) -> None:
        """Pass on what the server says before the client does."""
        with suppress(OSError):
            while data := await server[0].read(CHUNK):
                self._counts.down += len(data)
                self._client[1].write(data)
                await self._client[1].drain()
            self._client[1].write_eof()

    def _check(self, kind: Kind, first: bytes) -> None:
        """Check what the client begins with. Raises RefusedError, which is logged."""
        engine, host, port = self._engine, self._host, self._port
        if kind == "tls":
            hello = parse_client_hello(first)
            name = hello.server_name if hello is not None else ""
            if name and (reason := engine.differs(host, name, port)):
                raise engine.refuse(name.lower(), port, reason)
        elif kind == "http2":
            raise engine.refuse(host, port, "HTTP/2 without TLS cannot be checked")
        elif kind == "other" and first and engine.reads(host, port):
            raise engine.refuse(host, port, "it is neither HTTP nor TLS, and its requests have to be read")
