"""What the first bytes of a connection say about it: TLS, HTTP, or something else."""

from __future__ import annotations

import re
from typing import Literal

from bot_bottle.network.proxy.client_hello import is_tls, parse_client_hello

Kind = Literal["tls", "http", "http2", "other"]

LARGEST = 64 << 10  # bytes of the head of a request or a response
_METHOD = 32  # characters; the longest registered one has 17 (IANA, HTTP Method Registry)

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*")  # RFC 9110, 5.6.2
_VERSION = re.compile(rb".*[ \t]HTTP/([0-9]*)[^ \t]*[ \t\r]*", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")
_LIKE_A_REQUEST = re.compile(rb"[A-Za-z]{3,}[ \t]")


def classify(data: bytes) -> Kind | None:
    """Return what a connection is by its first bytes; None if more of them are needed.

    Raises ValueError for an invalid ClientHello. HTTP is seen in a wider sense than it is specified, since
    there are servers that accept more.
    """
    if is_tls(data):
        return None if parse_client_hello(data) is None else "tls"
    if b"\x16\x03".startswith(data):
        return None
    return _by_line(data.lstrip(b"\r\n"))


def _by_line(text: bytes) -> Kind | None:
    line, ended, _ = text.partition(b"\n")
    if _CONTROL.search(line) and not _LIKE_A_REQUEST.match(line):
        return "other"
    method = _TOKEN.match(line)
    length = 0 if method is None else method.end()
    if length > _METHOD or line[length : length + 1] not in (b" ", b"\t", b"") or (line and not length):
        return "other"
    if ended:
        version = _VERSION.fullmatch(line)
        if version is None:
            return "other"
        return "http2" if version[1] == b"2" else "http"
    return "other" if len(text) > LARGEST else None
