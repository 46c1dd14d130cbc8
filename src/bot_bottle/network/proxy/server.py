"""The HTTP proxy that a bottle's programs see: tunnels (CONNECT), and plain requests with the whole URL."""

from __future__ import annotations

import asyncio

from bot_bottle.network.proxy.engine import Engine, RefusedError
from bot_bottle.network.proxy.plain_http import HttpConnection
from bot_bottle.network.proxy.request_head import connect_target
from bot_bottle.network.proxy.tunnel import serve_tunnel

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def serve_proxy(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a client of the HTTP proxy until its connection ends."""
    connection = HttpConnection(engine, (reader, writer))

    async def reply(error: RefusedError | None) -> None:
        if error is None:
            writer.write(_ESTABLISHED)
        else:
            await connection.answer(error)

    try:
        while (request := await connection.next_request()) is not None:
            if request.method != b"CONNECT":
                if not await connection.serve_request(request):
                    return
                continue
            connection.close_server()
            try:
                host, port = connect_target(request)
            except RefusedError as error:
                await connection.answer(error)
                return
            sent, _ = connection.http.trailing_data  # what follows the request is for the tunnel
            await serve_tunnel(engine, reader, writer, host, port, hello=sent, reply=reply)
            return
    finally:
        connection.close_server()
        writer.close()
