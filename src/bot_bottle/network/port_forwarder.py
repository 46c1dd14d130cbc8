"""Lets this machine's loopback reach ports of a container.

A helper (see `egress.parent`) with the arguments SOCKET HOST:GUEST... Whoever holds the container's network
makes a connection in it for each that comes here, and hands it out (unix(7), SCM_RIGHTS; see `holder`).
Nothing is routed, and the container reaches nothing by it. On standard output is which port of this machine
leads to which of the container, in JSON, when all are open.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

_CHUNK = 1 << 16
_ADDRESS = "127.0.0.1"


class Forwarder:
    """The connections through one holder of a network."""

    def __init__(self, holder: socket.socket) -> None:
        self._holder = holder
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, guest: int) -> None:
        """Lead what comes to a listener to a port of the container, forever."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._lead(reader, writer, guest))
            self._tasks.add(task)  # asyncio itself does not keep it from being collected
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
        """Have a connection made in the container's network; None if nobody listens there."""
        async with self._one:
            return await asyncio.get_running_loop().run_in_executor(None, self._ask, guest)

    def _ask(self, guest: int) -> socket.socket | None:
        self._holder.sendall(guest.to_bytes(2, "big"))
        said, descriptors, _, _ = socket.recv_fds(self._holder, 1, 1)
        if not said:
            os._exit(0)  # the network is gone, and so is the bottle
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


async def _run(path: Path, listeners: list[tuple[socket.socket, int]]) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        path.chmod(0o666)  # in a folder that is the user's alone
        door.listen(1)
        found = [[listener.getsockname()[1], guest] for listener, guest in listeners]
        os.write(1, f"{json.dumps(found)}\n".encode())
        holder, _ = await asyncio.get_running_loop().run_in_executor(None, door.accept)
    path.unlink()  # which says that it is there
    forwarder = Forwarder(holder)
    await asyncio.gather(*(forwarder.serve(listener, guest) for listener, guest in listeners))


def main() -> None:
    """Forward until ended."""
    listeners = []
    for pair in sys.argv[2:]:
        host, _, guest = pair.partition(":")
        try:
            listeners.append((socket.create_server((_ADDRESS, int(host))), int(guest)))
        except OSError as error:
            sys.exit(f"{_ADDRESS}:{host}: {error.strerror}")
    asyncio.run(_run(Path(sys.argv[1]), listeners))
