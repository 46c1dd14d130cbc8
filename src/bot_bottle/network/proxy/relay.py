"""Passes bytes both ways between two connections, unread, until both have ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, cast

from bot_bottle.network.dialing import Streams

_CHUNK = 64 << 10  # bytes; about what a receiver that stalls makes us hold, for each direction

_LINGER = 30.0  # seconds in which what was asked for may still arrive


@dataclass(slots=True)
class Counts:
    """Bytes from the bottle (`up`) and to it (`down`)."""

    up: int = 0
    down: int = 0


async def relay(client: Streams, server: Streams, counts: Counts, first: bytes = b"") -> None:
    """Pass bytes between two connections; `first` were already read from the client.

    The end of input is passed on as such, so that half-closed connections work. Returns when both connections
    are closed; cancelling closes them at once.
    """
    inner, outer = _Side(client[1], counts, "up"), _Side(server[1], counts, "down")
    inner.peer, outer.peer = outer, inner
    try:
        counts.up += len(first)
        server[1].write(first)
        for _, writer in (client, server):
            await writer.drain()
        # from here until reading begins again nothing waits: no data arrives at a protocol that is replaced
        unread = await _buffered(client), await _buffered(server)
        for side in (inner, outer):
            side.transport.pause_reading()
            side.transport.set_protocol(side)
        for side, data in zip((inner, outer), unread, strict=True):
            side.pass_on(data)
        for side in (inner, outer):
            side.begin()
        await asyncio.gather(inner.ended, outer.ended)
    except OSError:
        pass
    finally:
        for side in (inner, outer):
            side.transport.abort()


async def _buffered(streams: Streams) -> bytes:
    """Return what a stream has received and nobody has read, without waiting. The stream ends with it."""
    reader, _ = streams
    reader.feed_eof()
    return await reader.read()


class _Side(asyncio.BufferedProtocol):
    """One of the two connections."""

    _shared = memoryview(bytearray(_CHUNK))  # what is received is passed on before anything else is received

    peer: _Side

    def __init__(self, writer: asyncio.StreamWriter, counts: Counts, way: Literal["up", "down"]) -> None:
        self.transport = cast(asyncio.Transport, writer.transport)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._counts, self._way = counts, way
        self._full = False  # more is waiting to be sent here than should
        self._finished = False  # nothing more is received here

    def begin(self) -> None:
        """Receive, unless the other side must send first."""
        if self.transport.is_closing():
            self.connection_lost(None)
        elif not self.peer._full:
            self.transport.resume_reading()

    def pass_on(self, data: bytes) -> None:
        """Send to the other side what was received here."""
        if data:
            setattr(self._counts, self._way, getattr(self._counts, self._way) + len(data))
            self.peer.transport.write(data)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - is asyncio's
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.pass_on(bytes(self._shared[:nbytes]))

    def eof_received(self) -> bool:
        self._finished = True
        if self.peer._finished:
            self.transport.close()
            self.peer.transport.close()
        elif self.peer.transport.can_write_eof():
            self.peer.transport.write_eof()
        else:  # TLS, to an upstream proxy, has no half-closed connections
            asyncio.get_running_loop().call_later(_LINGER, self.peer.transport.close)
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        self._full = True
        self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if not self.peer._finished:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the other side sees the end
        if not self.ended.done():
            self.ended.set_result(None)
        self.peer.transport.close()
