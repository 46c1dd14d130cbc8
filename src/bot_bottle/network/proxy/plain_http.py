"""Plain HTTP/1.1, each request of which is decided about, and passed on in a form of our own.

Requests are parsed by h11 and written anew, so that a server cannot read another request in them than we do
(RFC 9112, 11.2). They come to the proxy with the whole URL (3.2.2), or inside a tunnel with a path.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus

import h11

from bot_bottle.network.audit_log import Request
from bot_bottle.network.dialing import Streams
from bot_bottle.network.policy import Verdict
from bot_bottle.network.proxy.engine import Engine, RefusedError
from bot_bottle.network.proxy.exchange import BadGatewayError, Exchange, Server, next_event
from bot_bottle.network.proxy.first_bytes import LARGEST
from bot_bottle.network.proxy.relay import CHUNK, Counts
from bot_bottle.network.proxy.request_head import Target, checked_target

_LINGER = 1.0  # seconds for a client to read what it is answered
_LINGERING = 1 << 20  # bytes that it may send meanwhile


async def serve_requests(
    engine: Engine,
    client: Streams,
    first: bytes,
    server: Streams | None,
    origin: tuple[str, int],
    given: Verdict,
) -> None:
    """Serve the requests in a tunnel to `origin`, until it ends; `first` were already read from the client.

    `server` is the connection that was made for the tunnel, if there is one yet, after the verdict `given`.
    """
    connection = HttpConnection(engine, client, origin, server, given)
    connection.http.receive_data(first)
    await connection.serve()


class HttpConnection:
    """A client's connection, and the one to the server of its latest request."""

    def __init__(
        self,
        engine: Engine,
        client: Streams,
        origin: tuple[str, int] | None = None,
        server: Streams | None = None,
        given: Verdict | None = None,
    ) -> None:
        self._engine, self._client = engine, client
        self._origin, self._given = origin, given
        self.http = h11.Connection(h11.SERVER, LARGEST)
        self._server = Server(origin, server) if origin and server else None

    async def serve(self) -> None:
        """Serve requests until one ends the connection."""
        try:
            while (request := await self.next_request()) is not None:
                if not await self.serve_request(request):
                    break
        finally:
            self.close_server()

    async def next_request(self) -> h11.Request | None:
        """Return the head of the next request; None at the end. An invalid one is answered."""
        try:
            event = await next_event(self.http, self._client[0])
        except h11.RemoteProtocolError as error:
            await self.answer(RefusedError(f"invalid request: {error}", error.error_status_hint))
            return None
        except OSError:
            return None
        return event if isinstance(event, h11.Request) else None

    async def serve_request(self, request: h11.Request) -> bool:
        """Serve a request; return whether another one may follow."""
        try:
            target = checked_target(request, self._origin)
            rule = await self._permit(request, target)
            if (found := await self._find(request, target)) is not None:
                streams, stored = found
                try:
                    own = Server((target.host, target.port), streams)
                    return await self._exchange(request, target, own, rule, cached=stored)
                finally:
                    streams[1].transport.abort()
            server = await self._connected(self._origin or (target.host, target.port))
            return await self._exchange(request, target, server, rule)
        except RefusedError as error:
            await self.answer(error, bodiless=request.method == b"HEAD")
        except (OSError, h11.ProtocolError):
            self._client[1].transport.abort()  # a part of a message must not look like all of it
        return False

    async def _permit(self, request: h11.Request, target: Target) -> str:
        """Return the rule that allows a request. Raises RefusedError."""
        host, port = target.host, target.port
        given = self._given
        if self._origin is None:
            given = await self._engine.permit(host, port)
        elif reason := self._engine.differs(self._origin[0], host, port):
            raise self._engine.refuse(host, port, reason)
        return self._engine.permit_request(host, port, request.method.decode(), target.path, given).rule

    async def _find(self, request: h11.Request, target: Target) -> tuple[Streams, bool] | None:
        """Return what `PackageCache.open` does for a file of a registry; None for any other request."""
        packages = self._engine.packages
        if packages is None:
            return None
        method, fields = request.method.decode(), request.headers
        wanted = packages.find(target.host, target.port, method, target.path, fields)
        if wanted is None:
            return None
        try:
            return await packages.open(wanted)
        except RefusedError:  # it was logged; the server may not have TLS
            return None

    async def _exchange(
        self, request: h11.Request, target: Target, server: Server, rule: str, *, cached: bool = False
    ) -> bool:
        start, counts, failure = time.monotonic(), Counts(), ""
        exchange = Exchange(self._client, self.http, server, counts)
        try:
            return await exchange.run(request, target, closing=self._origin is not None)
        except BadGatewayError as error:
            failure = f"no response in HTTP: {error}"
            raise RefusedError(f"{target.host}:{target.port}: {failure}", 502) from error
        finally:
            self._engine.record(
                Request(
                    target.host,
                    target.port,
                    "failed" if failure else "allowed",
                    failure,
                    rule,
                    request.method.decode(),
                    target.path,
                    counts.up,
                    counts.down,
                    time.monotonic() - start,
                    cached=cached,
                )
            )

    async def _connected(self, origin: tuple[str, int]) -> Server:
        """Return a connection to a server: the latest one if it is for that. Raises RefusedError."""
        if self._server is None or self._server.origin != origin or not self._server.usable:
            self.close_server()
            if self._origin is None:
                self._server = Server(origin, *await self._engine.connect_for_requests(*origin))
            else:
                self._server = Server(origin, await self._engine.connect(*origin))
        return self._server

    def close_server(self) -> None:
        """Close the connection to a server."""
        if self._server is not None:
            self._server.streams[1].transport.abort()
            self._server = None

    async def answer(self, error: RefusedError, *, bodiless: bool = False) -> None:
        """Answer that a request was refused or failed, and end the connection."""
        reader, writer = self._client
        body = f"bottle: {error}\n".encode()
        headers = [
            ("Content-Type", "text/plain"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        reason = HTTPStatus(error.status).phrase
        with suppress(OSError, h11.LocalProtocolError, TimeoutError):
            head = h11.Response(status_code=error.status, headers=headers, reason=reason)
            writer.write(self.http.send(head) or b"")
            if not bodiless:
                writer.write(body)
            writer.write_eof()
            # a reset, because of a body that was not read, could overtake the answer
            async with asyncio.timeout(_LINGER):
                for _ in range(_LINGERING // CHUNK):
                    if not await reader.read(CHUNK):
                        break
        writer.close()
