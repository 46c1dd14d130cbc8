"""Heads of requests (RFC 9110, RFC 9112): where each goes, and how it is passed on."""

from __future__ import annotations

import re

import h11
from msgspec import Struct

from bot_bottle.network.proxy.engine import RefusedError
from bot_bottle.network.proxy.upstream import Upstream

_HTTP, _HTTPS = 80, 443
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/?#\[\]@%\\]+))(?::([0-9]{1,5}))?")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?")

# what is for one connection only (RFC 9110, 7.6.1), and what is for a proxy (11.7)
_OF_CONNECTION = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization"
    b" proxy-connection te trailer upgrade".split()
)
_NEVER_DROPPED = frozenset((b"host", b"content-length", b"transfer-encoding"))


class Target(Struct, frozen=True):
    """Where a request goes. `path` has the query, `authority` is the value of the header Host."""

    host: str
    port: int
    path: str
    authority: str


def parse_authority(text: str, port: int) -> tuple[str, int]:
    """Return host and port, the given one by default, of `host:port` (RFC 3986, 3.2). Raises ValueError."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or not 0 < (number := int(found[3] or port)) < 65536:
        raise ValueError("host and port are not valid")
    return (found[1] or found[2]).lower().removesuffix("."), number


def connect_target(request: h11.Request) -> tuple[str, int]:
    """Return host and port of a CONNECT request (RFC 9110, 9.3.6). Raises RefusedError."""
    try:
        host, port = parse_authority(request.target.decode("ascii"), 0)
    except ValueError as error:
        raise _invalid(f"CONNECT: {error}") from error
    return host, port


def checked_target(request: h11.Request, origin: tuple[str, int] | None) -> Target:
    """Return where a request goes: to any host with the whole URL, in a tunnel only to its `origin`.

    Raises RefusedError for one that a server might understand otherwise.
    """
    if header(request, b"transfer-encoding") and header(request, b"content-length"):
        raise _invalid("a request has two lengths: Transfer-Encoding and Content-Length")
    if request.http_version not in (b"1.0", b"1.1"):
        raise RefusedError("this is a proxy for HTTP/1.1", 505)
    if request.method == b"CONNECT":
        raise RefusedError("CONNECT is not possible inside a tunnel", 405)
    try:
        return _target(request, origin)
    except ValueError as error:
        raise _invalid(f"the request's target or its header Host is invalid: {error}") from error


def _target(request: h11.Request, origin: tuple[str, int] | None) -> Target:
    text, said = request.target.decode("ascii"), header(request, b"host").decode("ascii")
    url = _URL.fullmatch(text)
    if url is None and origin is None:
        raise _invalid("this is an HTTP proxy, not a server")
    if url is not None and url[1].lower() != "http":
        raise _invalid("this is an HTTP proxy; HTTPS needs a tunnel (CONNECT)")
    default = _HTTP if origin is None else origin[1]
    authority = said if url is None else url[2]
    path = text if url is None else url[3]
    if url is None and path != "*" and not path.startswith("/"):
        raise ValueError("it is not a path")
    if not authority and origin is not None:  # HTTP/1.0
        authority = f"[{origin[0]}]" if ":" in origin[0] else origin[0]
    host, port = parse_authority(authority, default)
    if said and parse_authority(said, default)[0] != host:
        raise _invalid("the header Host names another host than the request")
    if origin is not None and port != origin[1]:
        raise _invalid("the header Host names another port than the tunnel")
    if not path.startswith("/") and path != "*":
        path = "*" if request.method == b"OPTIONS" and not path else f"/{path}"
    return Target(host, port, path, authority)


def forwarded(request: h11.Request, target: Target, upstream: Upstream | None = None) -> h11.Request:
    """Return a request as it is sent to its server, or to an upstream proxy with the whole URL."""
    headers = [(b"Host", target.authority.encode()), *forwarded_headers(request)]
    if is_websocket(request):
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    text = target.path
    if upstream is not None:
        headers += upstream.headers
        text = f"http://{target.authority}{'' if text == '*' else text}"
    return h11.Request(method=request.method, target=text, headers=headers)


def is_websocket(request: h11.Request) -> bool:
    """Return whether a request asks for a WebSocket (RFC 6455, 4.1); other protocols would pass unread."""
    return header(request, b"upgrade").strip().lower() == b"websocket"


def header(event: h11.Request | h11.Response | h11.InformationalResponse, name: bytes) -> bytes:
    """Return the value of a header, several joined by commas; empty if there is none."""
    return b", ".join(value for each, value in event.headers if each == name)


def forwarded_headers(
    event: h11.Request | h11.Response | h11.InformationalResponse,
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request or a response that are sent on; Host is not among them."""
    named = {word.strip().lower() for word in header(event, b"connection").split(b",")}
    dropped = (_OF_CONNECTION | named) - _NEVER_DROPPED | {b"host"}
    return [(name, value) for name, value in event.headers.raw_items() if name.lower() not in dropped]


def _invalid(text: str) -> RefusedError:
    return RefusedError(text, 400)
