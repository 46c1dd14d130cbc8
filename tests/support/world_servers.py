"""The servers of a `World`, run inside its network namespace: `python -m tests.support.world_servers FOLDER`.
Those for HTTP are of `named_world` too.

Whatever arrives at any of them is written down, one JSON document a line, before it is answered.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any, cast

from aiohttp import WSMsgType, web

from tests.support import model_server
from tests.support.world import ADDRESSES, API, RESOLVER, TURNS, UDP_PORTS


class Servers:
    """All of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = (folder / "seen").open("a", encoding="utf-8")
        self._faults = model_server.Faults(folder / "faults")
        self._tokens = model_server.TokenServer()

    def saw(self, address: str, port: int, **facts: Any) -> None:
        """Write down that something arrived."""
        self._log.write(json.dumps({"address": address, "port": port, **facts}) + "\n")
        self._log.flush()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as its path says."""
        assert request.transport is not None
        address, port = request.transport.get_extra_info("sockname")[:2]
        self.saw(address, port, host=request.host, path=request.path)
        kind, _, rest = request.path.strip("/").partition("/")
        if request.host in model_server.HOSTS:
            asked = (await request.read()).decode("utf-8", "replace")
            self.saw(address, port, headers=dict(request.headers), method=request.method, asked=asked)
            return await model_server.answer(request, self._faults, self._tokens)
        if kind == "ws":
            return await _echo(request)
        if kind == "headers":
            self.saw(address, port, headers=dict(request.headers))
        if kind == "size":
            return await _sized(request, int(rest))
        if kind == "call":
            return web.Response(text=await _called(int(rest)))
        if kind == "sink":
            return web.Response(text=str(sum([len(chunk) async for chunk in request.content.iter_any()])))
        path = (self.folder / "files" / request.path.strip("/")).resolve()
        if path.is_file() and path.is_relative_to(self.folder / "files"):
            return web.FileResponse(path)
        return web.Response(text=f"reached {address}:{port}\n", status=404 if kind == "repo.git" else 200)

    async def run(self) -> None:
        """Serve until killed."""
        await self.web(*ADDRESSES)
        for address in ADDRESSES:
            for port in UDP_PORTS:
                await self._datagrams(address, port)
        await asyncio.start_server(self._stream, RESOLVER, 53)
        await asyncio.start_server(self._turns, API, TURNS)
        (self.folder / "ready").touch()
        await asyncio.Event().wait()

    async def web(self, *addresses: str) -> None:
        """Begin to serve HTTP and HTTPS at these addresses."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        secure.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        for address in addresses:
            await web.TCPSite(runner, address, 80).start()
            await web.TCPSite(runner, address, 443, ssl_context=secure).start()

    async def _datagrams(self, address: str, port: int) -> None:
        servers = self

        class Answer(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast(asyncio.DatagramTransport, transport)

            def datagram_received(self, data: bytes, addr: Any) -> None:
                servers.saw(address, port, datagram=data.hex()[:200])
                self.transport.sendto(data, addr)

        await asyncio.get_running_loop().create_datagram_endpoint(Answer, local_addr=(address, port))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.saw(RESOLVER, 53, data=(await reader.read(200)).hex())
        writer.close()

    async def _turns(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer when all is there (`first`), before the last (`last`), or by HTTP without a length."""
        match (await reader.readline()).split():
            case [b"first"]:
                writer.write(f"{len(await reader.read())}\n".encode())
            case [b"last"]:
                await reader.readexactly(1_000_000)
                writer.write(b"all\n")
                writer.write_eof()
                self.saw(API, TURNS, more=len(await reader.read()))
            case _:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(3_000_000))
                await writer.drain()
        writer.close()


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(f"echo {message.data}")
    return socket


async def _called(port: int) -> str:
    """Say hello to a port of the world's loopback, as a program on the bottle's machine would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    writer.write_eof()
    answer = await reader.read(100)
    writer.close()
    return answer.decode()


async def _sized(request: web.Request, size: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(size)})
    await response.prepare(request)
    for start in range(0, size, 1 << 20):
        await response.write(b"x" * min(1 << 20, size - start))
    return response


if __name__ == "__main__":
    asyncio.run(Servers(Path(sys.argv[1])).run())
