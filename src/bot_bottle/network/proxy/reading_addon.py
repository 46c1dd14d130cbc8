"""The addon of mitmproxy that decides about requests, puts credentials into them, and logs them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mitmproxy import http
from mitmproxy.tls import ClientHelloData, TlsData
from msgspec import Struct, field

from bot_bottle.network.audit_log import Request
from bot_bottle.network.credentials import substitute, substitute_placeholders, takes_value
from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.credentials import Substitutions
from bot_bottle.network.proxy.engine import SERVICES, Engine, RefusedError, SpentError
from bot_bottle.network.proxy.metering import Answer, refusal
from bot_bottle.network.proxy.package_cache import Wanted
from bot_bottle.network.proxy.relay import Counts
from bot_bottle.network.proxy.request_head import parse_authority

LARGEST_BODY = 1 << 20  # bytes of one that is held
STREAM = "stream"  # what a body is passed through that turns out to be larger

_HTTP = 80
_UNAUTHORIZED = 401
_DROPPED = ("proxy-authorization", "proxy-connection")


class _Exchange(Struct):
    rule: str
    values: Substitutions
    used: bool = False  # a header has one of the values
    form: Callable[[str], str] | None = None  # in which a value is put into the body, which is held for it
    cached: bool = False
    counts: Counts = field(default_factory=Counts)
    start: float = field(default_factory=time.monotonic)
    answer: Answer | None = None  # whose tokens are counted


class Addon:
    """Each connection that is read is a tunnel to one host, to which all its requests have to go."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tunnels: dict[str, tuple[str, int]] = {}  # by client
        self._exchanges: dict[str, _Exchange] = {}  # by flow
        self._wanted: dict[str, tuple[str, _Exchange, Wanted]] = {}  # by host names of ours, with the client

    @contextmanager
    def tunnel(self, client: str, host: str, port: int) -> Iterator[None]:
        """Expect the requests of a client."""
        self._tunnels[client] = (host, port)
        try:
            yield
        finally:
            del self._tunnels[client]
            for name in [name for name, (owner, *_) in self._wanted.items() if owner == client]:
                del self._wanted[name]

    def tls_clienthello(self, data: ClientHelloData) -> None:
        """Connect to no server before one is needed, where the cache may answer in its place."""
        if self._engine.caches(*self._tunnels[data.context.client.id]):
            data.establish_server_tls_first = False

    async def connect(self, host: str, port: int) -> Streams:
        """Connect to a server, or to what answers in its place. Raises RefusedError."""
        if (found := self._wanted.pop(host, None)) is not None and self._engine.packages is not None:
            _, exchange, wanted = found
            streams, exchange.cached = await self._engine.packages.open(wanted)
            return streams
        await self._engine.permit(host, port)
        return await self._engine.connect(host, port)

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Decide about a request. Its body is streamed, unless a value is to be put into it."""
        host, port = self._tunnels[flow.client_conn.id]
        request = flow.request
        try:
            self._check_authority(request, host, port)
            verdict = self._engine.permit_request(host, port, request.method, request.path)
            answer = self._engine.spend(
                host, port, request.method, request.path, switches="upgrade" in request.headers
            )
        except RefusedError as error:
            flow.response = _refusal(error)
            return
        values = await self._engine.credentials.substitutions(host)
        exchange = self._exchanges[flow.id] = _Exchange(verdict.rule, values, answer=answer)
        for name in _DROPPED:
            request.headers.pop(name, None)
        if request.headers.get("upgrade", "websocket").lower() != "websocket":
            del request.headers["upgrade"]  # what follows another protocol would pass unread
        if answer is not None and request.method == "POST":
            request.headers["accept-encoding"] = "identity"  # so that the tokens can be read
        before = request.headers.fields
        request.headers.fields = tuple(
            (name, substitute_placeholders(value, values.headers)) for name, value in before
        )
        exchange.used = request.headers.fields != before
        if not exchange.used:
            self._look_up(flow, exchange, before)

        def count(data: bytes) -> bytes:
            exchange.counts.up += len(data)
            return data

        flow.metadata[STREAM] = count
        exchange.form = _form(request) if values.body else None
        if exchange.form is None:
            request.stream = count

    def _look_up(
        self, flow: http.HTTPFlow, exchange: _Exchange, fields: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        """Send a request for a file of a registry to the cache of packages instead."""
        client, request, packages = flow.client_conn.id, flow.request, self._engine.packages
        if packages is None:
            return
        wanted = packages.find(*self._tunnels[client], request.method, request.path, fields)
        if wanted is not None:
            name = f"{secrets.token_hex(16)}{SERVICES}"  # nothing else has this name
            self._wanted[name] = client, exchange, wanted
            request.scheme, request.host, request.port = "http", name, _HTTP

    def request(self, flow: http.HTTPFlow) -> None:
        """Put values into a body that was held."""
        exchange, body = self._exchanges.get(flow.id), flow.request.raw_content
        if exchange is None or exchange.form is None or not body:
            return
        exchange.counts.up += len(body)
        form = exchange.form
        values = {name: form(value.decode()).encode() for name, value in exchange.values.body.items()}
        changed = substitute(body, values)
        if changed != body:
            flow.request.content = changed  # sets Content-Length too

    def _check_authority(self, request: http.Request, host: str, port: int) -> None:
        """Check that a request is for the tunnel's host and port. Raises RefusedError."""
        named = [request.authority, *request.headers.get_all("host")]
        if "://" in request.path:
            raise RefusedError("a request in a tunnel has a path, not a URL", 400)
        for each in filter(None, named):
            try:
                found = parse_authority(each, port)
            except ValueError as error:
                raise RefusedError(f"the request's authority is invalid: {error}", 400) from error
            if found != (host, port):
                reason = f"the connection was requested for {host}"
                self._engine.refuse(*found, reason, method=request.method, path=request.path)
                raise RefusedError("the header Host names another host than the tunnel", 421)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the body of a response."""
        exchange = self._exchanges.get(flow.id)
        if flow.response is None or exchange is None:
            return
        if flow.response.status_code == _UNAUTHORIZED and exchange.used:
            self._engine.credentials.refuse(self._tunnels[flow.client_conn.id][0], exchange.values)

        if (answer := exchange.answer) is not None:
            kind, coding = (flow.response.headers.get(f"content-{each}", "") for each in ("type", "encoding"))
            answer.begin(flow.response.status_code, kind, coding)

        def count(data: bytes) -> bytes:
            exchange.counts.down += len(data)
            if answer is not None:
                answer.feed(data)
            return data

        flow.response.stream = count

    def response(self, flow: http.HTTPFlow) -> None:
        """Log a request that has ended."""
        if flow.websocket is None:
            self._ended(flow, "")

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Count a message, and forget those before it."""
        exchange = self._exchanges.get(flow.id)
        if flow.websocket is None or exchange is None:
            return
        message = flow.websocket.messages[-1]
        del flow.websocket.messages[:-1]
        if message.from_client:
            exchange.counts.up += len(message.content)
        else:
            exchange.counts.down += len(message.content)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """Log a WebSocket that has ended."""
        self._ended(flow, "")

    def error(self, flow: http.HTTPFlow) -> None:
        """Log a request that has failed."""
        self._ended(flow, flow.error.msg if flow.error else "")

    def tls_failed_server(self, data: TlsData) -> None:
        """Log a server with which TLS failed."""
        host, port = self._tunnels[data.context.client.id]
        self._engine.record(Request(host, port, "failed", f"TLS: {data.conn.error}"))

    def tls_failed_client(self, data: TlsData) -> None:
        """Log a client that does not trust the authority of its bottle, most often."""
        host, port = self._tunnels[data.context.client.id]
        self._engine.record(Request(host, port, "failed", f"TLS with the bottle: {data.conn.error}"))

    def _ended(self, flow: http.HTTPFlow, failure: str) -> None:
        exchange = self._exchanges.pop(flow.id, None)
        if exchange is None:
            return  # it was refused
        if exchange.answer is not None:
            exchange.answer.end(exchange.counts.up)
        host, port = self._tunnels[flow.client_conn.id]
        self._engine.record(
            Request(
                host,
                port,
                "failed" if failure else "allowed",
                failure,
                exchange.rule,
                flow.request.method,
                flow.request.path,
                exchange.counts.up,
                exchange.counts.down,
                time.monotonic() - exchange.start,
                cached=exchange.cached,
            )
        )


def _form(request: http.Request) -> Callable[[str], str] | None:
    """Return how a value is put into a request's body; None where it is not."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > LARGEST_BODY:
        return None
    return takes_value(request.headers.get("content-type", ""))


def _refusal(error: RefusedError) -> http.Response:
    if isinstance(error, SpentError):
        headers = {"Content-Type": "application/json", "X-Should-Retry": "false", "Connection": "close"}
        return http.Response.make(error.status, refusal(f"bottle: {error}"), headers)
    headers = {"Content-Type": "text/plain", "Connection": "close"}
    return http.Response.make(error.status, f"bottle: {error}\n", headers)
