"""Reads encrypted requests, with mitmproxy: for hosts of a credential, and of rules with methods or paths.

The bottle trusts an authority of its own run, in whose name mitmproxy presents itself as these hosts. This
module is imported when it is needed: mitmproxy takes a second to load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import certifi
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers.http import HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._events import RequestData
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler, ServerInstance
from mitmproxy.proxy.mode_specs import RegularMode
from mitmproxy.proxy.server import ConnectionIO

from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.config import ReadingConfig
from bot_bottle.network.proxy.engine import Engine, RefusedError
from bot_bottle.network.proxy.reading_addon import LARGEST_BODY, STREAM, Addon


class Reader:
    """mitmproxy, with an authority that is made for it. Made inside a running event loop."""

    def __init__(self, engine: Engine, config: ReadingConfig, authorities: str | None) -> None:
        logging.getLogger("mitmproxy").setLevel(logging.CRITICAL)  # what a bottle sends must not fill a file
        trusted = authorities or certifi.where()
        self._master, manager = Master(Options(server=False, rawtcp=False)), Proxyserver()
        self._addon = Addon(engine)
        self._master.addons.add(manager, TlsConfig(), self._addon)
        # the authority is made with these options
        self._master.options.update(confdir=config.folder, ssl_verify_upstream_trusted_ca=trusted)
        self._instance: ServerInstance[RegularMode] = ServerInstance.make("regular", manager)
        own = Path(config.folder, "mitmproxy-ca-cert.pem").read_bytes()
        Path(config.bundle).write_bytes(Path(trusted).read_bytes() + b"\n" + own)
        Path(config.bundle).chmod(0o644)

    async def serve(
        self, client: Streams, first: bytes, server: Streams | None, host: str, port: int
    ) -> None:
        """Serve TLS in a tunnel; `first` were already read, `server` is a connection made for it, or None."""
        connection = _Connection(
            self._master, _Resumed(client[0], first), client[1], self._master.options, self._instance.mode
        )
        connection.begin(self._addon, server, host, port)
        with self._addon.tunnel(connection.client.id, host, port):
            await connection.handle_client()


class _Resumed(asyncio.StreamReader):
    """A stream of which the beginning has been read already."""

    def __init__(self, reader: asyncio.StreamReader, first: bytes) -> None:
        super().__init__()
        self._source, self._first = reader, first

    async def read(self, n: int = -1) -> bytes:
        first, self._first = self._first, b""
        return first or await self._source.read(n)


class _Connection(ProxyConnectionHandler):
    """A client's connection, and those to its server, which are made by the engine."""

    _addon: Addon
    _server: Streams | None

    def begin(self, addon: Addon, server: Streams | None, host: str, port: int) -> None:
        """Set what is on top of TCP: TLS to both sides, and HTTP in it."""
        self._addon, self._server = addon, server
        context = self.layer.context
        context.server = Server(address=(host, port))
        outer = layers.ServerTLSLayer(context)
        outer.child_layer = inner = layers.ClientTLSLayer(context)
        inner.child_layer = _HttpLayer(context, HTTPMode.transparent)
        self.layer = outer

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Use the tunnel's connection, and then others that the engine makes."""
        server = command.connection
        (reader, writer), self._server = self._server or (None, None), None
        try:
            if reader is None or writer is None:
                reader, writer = await self._addon.connect(*(server.address or ("", 0))[:2])
        except (RefusedError, asyncio.CancelledError) as error:
            server.error = str(error) or "cancelled"
            await self.server_event(events.OpenConnectionCompleted(command, server.error))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        server.peername = writer.get_extra_info("peername")
        server.sockname = writer.get_extra_info("sockname")
        server.timestamp_start = server.timestamp_tcp_setup = time.time()
        server.state = ConnectionState.OPEN
        self.transports[server] = ConnectionIO(handler=asyncio.current_task(), reader=reader, writer=writer)
        await self.server_event(events.OpenConnectionCompleted(command, None))
        await self.handle_connection(server)
        server.timestamp_end = time.time()


class _HttpLayer(layers.HttpLayer):
    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        stream = _Stream(self.context.fork(), stream_id)
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())


class _Stream(HttpStream):
    """A request and its response. Bodies are streamed, unless it was refused, or its body is held."""

    def check_body_size(self, request: bool) -> layer.CommandGenerator[bool]:
        if request and len(self.request_body_buf) > LARGEST_BODY:
            if self.flow.response is not None:  # it was refused, and is answered when all of it has come
                self.request_body_buf.clear()
                return False
            body = bytes(self.request_body_buf)
            self.request_body_buf.clear()
            self.flow.request.stream = self.flow.metadata[STREAM]
            yield from self.start_request_stream()
            yield from self.handle_event(RequestData(self.stream_id, body))
        return False
