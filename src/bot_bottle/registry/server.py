"""The OCI distribution API over a store, on a socket that is already bound.

Access is checked here: the Host header, the prefix, and the method. Every path outside the prefix gets the
same answer.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.host.files import disk_full
from bot_bottle.registry import blobs, manifests, uploads
from bot_bottle.registry import tags as listings
from bot_bottle.registry.errors import JSON, Answer, Refusal, name_unknown
from bot_bottle.registry.repositories import Service
from bot_bottle.registry.routes import Kind, Route, parse

log = logging.getLogger(__name__)

_Handler = Callable[[Service, BaseRequest, Route], Awaitable[web.StreamResponse]]

_HANDLERS: dict[Kind, dict[str, _Handler]] = {
    "blob": {"GET": blobs.get, "HEAD": blobs.get, "DELETE": blobs.delete},
    "manifest": {
        "GET": manifests.get,
        "HEAD": manifests.get,
        "PUT": manifests.put,
        "DELETE": manifests.delete,
    },
    "uploads": {"POST": uploads.start},
    "upload": {"GET": uploads.status, "PATCH": uploads.patch, "PUT": uploads.put, "DELETE": uploads.cancel},
    "tags": {"GET": listings.tags},
    "referrers": {"GET": listings.referrers},
}
_READING = frozenset({"GET", "HEAD"})
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_STOP_SECONDS = 2.0
_READ_BUFFER = 256 << 10  # bytes of a body that wait for the disk, for each connection


async def serve(
    service: Service, listening: socket.socket, until: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Serve on a listening socket until `until` is set; call `ready` when it accepts connections."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: log.debug("event loop: %s", context))
    port = listening.getsockname()[1]
    hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
    server = _Server(service, hosts)
    acceptor = await loop.create_server(server, sock=listening, backlog=128)
    watch = loop.create_task(server.watch())
    ready()
    try:
        await until.wait()
    finally:
        watch.cancel()
        acceptor.close()
        server.pre_shutdown()  # otherwise it waits for idle connections
        await server.shutdown(_STOP_SECONDS)
        service.pool.shutdown()
        service.repositories.store.close()


class _Server(web.Server):
    """The connections of one registry: limited in number and in idle time."""

    def __init__(self, service: Service, hosts: frozenset[str]) -> None:
        # invalid requests are the client's errors: they are not logged, and never print a traceback
        quiet = logging.Logger(f"{__name__}.http", logging.CRITICAL)
        super().__init__(
            self._answer,
            access_log=None,
            logger=quiet,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            keepalive_timeout=service.limits.idle,
            lingering_time=_STOP_SECONDS,
            tcp_keepalive=False,
        )
        self._service = service
        self._hosts = hosts
        self._idle_since: dict[web.RequestHandler, float] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Add a connection, or close it if there are too many."""
        super().connection_made(handler, transport)
        if len(self.connections) > self._service.limits.connections:
            transport.abort()
            return
        self._idle_since[handler] = asyncio.get_running_loop().time()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Remove a connection."""
        self._idle_since.pop(handler, None)
        super().connection_lost(handler, exc)

    async def watch(self) -> None:
        """Close connections on which no complete request arrives in time."""
        while True:
            await asyncio.sleep(self._service.limits.idle / 4)
            now = asyncio.get_running_loop().time()
            for handler, since in list(self._idle_since.items()):
                if now - since > self._service.limits.idle:
                    handler.force_close()

    async def _answer(self, request: BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        since = self._idle_since.pop(protocol, None)
        try:
            return await self._handle(request)
        except Refusal as refusal:
            return _refused(refusal)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.debug("while answering %s %s", request.method, request.rel_url.raw_path, exc_info=error)
            if request.writer.output_size:  # no second response after an incomplete one
                raise ConnectionResetError("the request failed within the registry") from error
            return _refused(_fault(error))
        finally:
            if since is not None and protocol.transport is not None:
                self._idle_since[protocol] = asyncio.get_running_loop().time()

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        if request.headers.get("Host") not in self._hosts:
            raise Refusal(Answer.MISDIRECTED, "this registry is reached as 127.0.0.1:PORT")
        route = parse(unquote(request.rel_url.raw_path))
        if route.kind == "base":
            return _base(request)
        prefix, _, rest = route.name.partition("/")
        if not hmac.compare_digest(prefix.encode(), self._service.prefix.encode()) or not rest:
            raise name_unknown()
        methods = _HANDLERS[route.kind]
        if request.method not in methods:
            raise Refusal(
                Answer.NOT_ALLOWED, "the path does not support it", headers={"Allow": ", ".join(methods)}
            )
        if request.method not in _READING and not self._service.writable:
            raise Refusal(Answer.DENIED, "this registry is read-only")
        return await methods[request.method](self._service, request, route)


def _refused(refusal: Refusal) -> web.Response:
    headers = {"Content-Type": JSON, **_VERSION, **refusal.headers}
    return web.Response(
        status=refusal.answer.status, reason=refusal.answer.reason, body=refusal.body(), headers=headers
    )


def _fault(error: Exception) -> Refusal:
    if disk_full(error) or (isinstance(error, OSError) and error.errno == errno.EFBIG):
        return Refusal(Answer.STORAGE_FULL, "the registry's disk is full")
    return Refusal(Answer.FAULT, "internal error")


def _base(request: BaseRequest) -> web.StreamResponse:
    if request.method not in _READING:
        raise Refusal(Answer.NOT_ALLOWED, "the path does not support it", headers={"Allow": "GET, HEAD"})
    return web.Response(body=b"{}", headers={"Content-Type": JSON, **_VERSION})
