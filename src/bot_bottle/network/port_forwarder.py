"""Forwards ports of this machine's loopback to ports of a container.

A helper process (see `host.helper_process`) with the arguments DESCRIPTOR SOCKET LISTENER:GUEST... DESCRIPTOR
is of a unix socket, which listens at the path SOCKET, and each LISTENER of a socket that listens on a port
here. The process in the container's network namespace connects to SOCKET. It makes a connection for each
client here, and passes that on (unix(7), SCM_RIGHTS; see `proxy_process`). Nothing is routed, and the
container reaches nothing through it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

_CHUNK = 1 << 16


class Forwarder:
    """Connections made by the process in one network namespace."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, guest: int) -> None:
        """Forward connections of a listener to a port of the container, forever."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._lead(reader, writer, guest))
            self._tasks.add(task)  # asyncio has only weak references to tasks
            task.add_done_callback(self._tasks.discard)

        async with await asyncio.start_server(accept, sock=listener) as server:
            await server.serve_forever()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: int) -> None:
        try:
            made = await self._made(guest)
            if made is not None:
                inside, into = await asyncio.open_connection(sock=made)
                await asyncio.gather(_pump(reader, into), _pump(inside, writer))
                into.close()
        finally:
            writer.close()

    async def _made(self, guest: int) -> socket.socket | None:
        """Return a connection made in the container's network; None if nothing listens on the port."""
        async with self._one:
            return await asyncio.get_running_loop().run_in_executor(None, self._ask, guest)

    def _ask(self, guest: int) -> socket.socket | None:
        self._channel.sendall(guest.to_bytes(2, "big"))
        said, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        if not said:
            os._exit(0)  # the network namespace has ended, and so has the bottle
        if not descriptors:
            return None
        made = socket.socket(fileno=descriptors[0])
        made.setblocking(False)
        return made


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    with suppress(OSError):
        target.write_eof()


async def _run(server: socket.socket, path: Path, listeners: list[tuple[socket.socket, int]]) -> None:
    with server:
        channel, _ = await asyncio.get_running_loop().run_in_executor(None, server.accept)
    path.unlink()  # its removal says that the connection is there
    forwarder = Forwarder(channel)
    await asyncio.gather(*(forwarder.serve(listener, guest) for listener, guest in listeners))


def main() -> None:
    """Forward until terminated."""
    descriptor, path, *pairs = sys.argv[1:]
    numbers = [map(int, pair.split(":")) for pair in pairs]
    listeners = [(socket.socket(fileno=listener), guest) for listener, guest in numbers]
    asyncio.run(_run(socket.socket(fileno=int(descriptor)), Path(path), listeners))
