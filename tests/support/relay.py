"""A server before a registry that passes requests on, records them, and changes answers as a test says."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.token_service import serving

Seen = tuple[str, str, dict[str, str]]
Reply = tuple[int, Mapping[str, str], bytes]
Answerer = Callable[[str, str, Mapping[str, str]], Reply | None]


@dataclass
class Relay:
    """`answer` may answer a request (method, path, headers) itself; `change` changes the registry's reply.

    The bodies of blobs are cut after `cut` bytes, and of chunks that are uploaded so many are passed on,
    both as many times as `cuts` says; then the connection is closed.
    """

    upstream: int
    answer: Answerer = lambda *_: None
    change: Callable[[str, str, Reply], Reply] = lambda _method, _path, reply: reply
    cut: int = 0
    cuts: int = 0
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0
    port: int = 0

    def paths(self, method: str, pattern: str) -> list[str]:
        """The paths of requests, with their range."""
        return [
            f"{path} {headers.get('range', '')}".strip()
            for how, path, headers in self.seen
            if how == method and re.search(pattern, path)
        ]


def busy_once(status: int, stated: str) -> Answerer:
    """Answer the first try of each request with a status, and with `stated` as its Retry-After."""
    seen: set[tuple[str, str]] = set()

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Reply | None:
        request = (method, headers.get("content-range") or path.partition("?")[0])
        first = request not in seen
        seen.add(request)
        return (status, {"Retry-After": stated}, b"slow down") if first else None

    return answer


@contextmanager
def relaying(upstream: int) -> Iterator[Relay]:
    relay = Relay(upstream)

    class Handler(_Handler):
        pass

    Handler.relay = relay
    with serving(Handler) as relay.port:
        yield relay


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    relay: Relay

    def log_message(self, *_: object) -> None:
        pass

    def do_any(self) -> None:
        relay = self.relay
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        relay.seen.append((self.command, self.path, headers))
        own = relay.answer(self.command, self.path, headers)
        if own is not None:
            self._send(own)
            return
        broken = self.command == "PATCH" and relay.cuts > 0
        if broken:
            relay.cuts -= 1
            body = body[: relay.cut]
            start = int(headers["content-range"].partition("-")[0])
            headers |= {"content-range": f"{start}-{start + len(body) - 1}", "content-length": str(len(body))}
        reply = self._passed_on(body, headers)
        if broken:
            self.close_connection = True
            return
        self._send(relay.change(self.command, self.path, reply))

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_any

    def _passed_on(self, body: bytes, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.relay.upstream, timeout=60)
        given = {name: value for name, value in headers.items() if name not in ("host", "connection")}
        left_out = ("transfer-encoding", "connection", "date", "server")
        with closing(connection):
            connection.request(self.command, self.path, body, given)
            answer = connection.getresponse()
            found = {name: value for name, value in answer.getheaders() if name.lower() not in left_out}
            return answer.status, found, answer.read()

    def _send(self, reply: Reply) -> None:
        relay = self.relay
        status, headers, body = reply
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        if status != 204:
            length = (
                headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
            )
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if (
            "/blobs/sha256" in self.path
            and len(body) > relay.cut
            and relay.cuts > 0
            and self.command == "GET"
        ):
            relay.cuts -= 1
            body = body[: relay.cut]
            self.close_connection = True
        relay.sent += len(body)
        with suppress(ConnectionError):  # the client has heard enough
            self.wfile.write(body)
