"""One HTTP/1.1 request with its body, and the response to it, passed on part by part."""

from __future__ import annotations

import asyncio

import h11
from msgspec import Struct, field

from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.first_bytes import LARGEST
from bot_bottle.network.proxy.relay import CHUNK, Counts, relay
from bot_bottle.network.proxy.request_head import (
    Target,
    forwarded,
    forwarded_headers,
    header,
    is_websocket,
)
from bot_bottle.network.proxy.upstream import Upstream

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]  # what h11 returns


class Server(Struct):
    """A connection to a server, or to an upstream proxy, and the host and port that it is for."""

    origin: tuple[str, int]
    streams: Streams
    upstream: Upstream | None = None
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT, LARGEST))

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        reader, writer = self.streams
        return self.http.our_state is h11.IDLE and not reader.at_eof() and not writer.is_closing()


class BadGatewayError(Exception):
    """A server did not respond, or not in HTTP; nothing was sent to the client."""


async def next_event(http: h11.Connection, reader: asyncio.StreamReader) -> Event:
    """Return what comes next from a client or server. Raises OSError, h11.RemoteProtocolError."""
    while True:
        event = http.next_event()
        if event is not h11.NEED_DATA:
            return event
        http.receive_data(await reader.read(CHUNK))


class Exchange:
    """A request to a server, and its response."""

    def __init__(self, client: Streams, http: h11.Connection, server: Server, counts: Counts) -> None:
        self._client, self._http = client, http
        self._server = server
        self._counts = counts
        self._switched = False

    async def run(self, request: h11.Request, target: Target, *, closing: bool) -> bool:
        """Return whether the client's connection can be used again; with `closing`, as the server's can.

        Raises BadGatewayError, OSError, h11.ProtocolError.
        """
        await self._send_up(forwarded(request, target, self._server.upstream))
        up = asyncio.create_task(self._upload())
        down = asyncio.create_task(self._download(closing=closing, websocket=is_websocket(request)))
        try:
            done, _ = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if down not in done and up.exception() is None:
                await asyncio.wait((down,))
            for task in (down, up):
                if task.done():
                    task.result()
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.wait((up, down))
        if self._switched:
            await self._switch()
            return False
        return self._next_cycle(closing=closing)

    def _next_cycle(self, *, closing: bool) -> bool:
        reusable = self._server.http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        if reusable:
            self._server.http.start_next_cycle()
        if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE} or (closing and not reusable):
            return False
        self._http.start_next_cycle()
        return True

    async def _upload(self) -> None:
        """Pass on the body of the request. Its trailers are dropped."""
        while isinstance(event := await next_event(self._http, self._client[0]), h11.Data):
            await self._send_up(h11.Data(data=bytes(event.data)))
        if not isinstance(event, h11.EndOfMessage):
            raise OSError("the client has broken off")
        await self._send_up(h11.EndOfMessage())

    async def _download(self, *, closing: bool, websocket: bool) -> None:
        """Pass on the response, after others that only inform (RFC 9110, 15.2)."""
        started = False
        try:
            while True:
                event = await next_event(self._server.http, self._server.streams[0])
                started = True
                if isinstance(event, h11.InformationalResponse):
                    await self._inform(event, websocket=websocket)
                    if self._switched:
                        return
                    continue
                if isinstance(event, h11.Response):
                    await self._send_down(self._response(event, closing=closing))
                elif isinstance(event, h11.Data):
                    await self._send_down(h11.Data(data=bytes(event.data)))
                else:
                    await self._send_down(h11.EndOfMessage())
                    return
        except (OSError, h11.RemoteProtocolError) as error:
            if started:
                raise
            raise BadGatewayError(str(error) or type(error).__name__) from error

    async def _inform(self, event: h11.InformationalResponse, *, websocket: bool) -> None:
        headers = forwarded_headers(event)
        if event.status_code == 101 and websocket:
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
            self._switched = True
        await self._send_down(
            h11.InformationalResponse(status_code=event.status_code, headers=headers, reason=event.reason)
        )

    def _response(self, event: h11.Response, *, closing: bool) -> h11.Response:
        headers = forwarded_headers(event)
        closes = b"close" in header(event, b"connection").lower() or event.http_version < b"1.1"
        if closing and closes:
            headers.append((b"Connection", b"close"))
        return h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)

    async def _switch(self) -> None:
        """Pass on what follows a switch of protocols (RFC 9110, 7.8)."""
        data, _ = self._server.http.trailing_data
        self._counts.down += len(data)
        self._client[1].write(data)
        await relay(self._client, self._server.streams, self._counts, self._http.trailing_data[0])

    async def _send_up(self, event: h11.Event) -> None:
        data = self._server.http.send(event) or b""
        self._counts.up += len(data)
        self._server.streams[1].write(data)
        await self._server.streams[1].drain()

    async def _send_down(self, event: h11.Event) -> None:
        data = self._http.send(event) or b""
        self._counts.down += len(data)
        self._client[1].write(data)
        await self._client[1].drain()
