"""Passes bytes both ways between two connections, unread, until both have ended.

asyncio asks for a buffer when a socket has received something. At that moment it is moved to the other socket
within the kernel, as far as that takes it; what asyncio then receives and sends itself is the rest.
"""

from __future__ import annotations

import asyncio
from typing import Literal, cast

from msgspec import Struct

from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.splicing import Pipe

CHUNK = 64 << 10  # bytes; about what a receiver that stalls makes us hold, for each direction
_TURNS = 16  # times as much is passed on for a connection before others get their turn

_LINGER = 30.0  # seconds in which what was asked for may still arrive


class Counts(Struct):
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
            side.transport.set_write_buffer_limits(0)  # nothing is received while anything waits
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

    _shared = memoryview(bytearray(CHUNK))  # what is received is passed on before anything else is received
    _pipe = Pipe()

    peer: _Side

    def __init__(self, writer: asyncio.StreamWriter, counts: Counts, way: Literal["up", "down"]) -> None:
        self.transport = cast(asyncio.Transport, writer.transport)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._counts, self._way = counts, way
        self._full = False  # something is waiting to be sent here
        self._finished = False  # nothing more is received here
        self._socket = -1  # its descriptor, unless what is sent differs from what is received (TLS)
        if writer.get_extra_info("sslcontext") is None:
            self._socket = writer.get_extra_info("socket").fileno()

    def begin(self) -> None:
        """Receive, unless the other side must send first."""
        if self.transport.is_closing():
            self.connection_lost(None)
        elif not self.peer._full:
            self.transport.resume_reading()

    def pass_on(self, data: bytes) -> None:
        """Send to the other side what was received here."""
        if data:
            self._count(len(data))
            self.peer.transport.write(data)

    def _count(self, size: int) -> None:
        setattr(self._counts, self._way, getattr(self._counts, self._way) + size)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - is asyncio's
        """Pass on what has arrived without copying it, and return where the rest is received."""
        for _ in range(_TURNS):
            if not self._can_splice:
                break
            moved, rest = self._pipe.move(self._socket, self.peer._socket, CHUNK)
            self._count(moved)
            self.pass_on(rest)
            if moved < CHUNK:
                break
        return self._shared[:1] if self.peer._full else self._shared

    @property
    def _can_splice(self) -> bool:
        there = self.peer.transport
        plain = self._socket >= 0 and self.peer._socket >= 0
        return plain and not there.get_write_buffer_size() and not there.is_closing()

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
