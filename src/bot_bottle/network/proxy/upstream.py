"""A proxy of the network that this machine is in, by which hosts outside are reached.

They are those of the usual variables: HTTPS_PROXY for tunnels, HTTP_PROXY for plain requests, NO_PROXY for
hosts that are reached directly, in small letters too.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from bot_bottle.errors import SpecError

if TYPE_CHECKING:  # every command loads this module, and the proxy alone connects
    import ssl

    from bot_bottle.network.dialing import Streams

_TIMEOUT = 30.0  # seconds
_PORTS = {"http": 80, "https": 443}


class Upstream(Struct, frozen=True):
    """A proxy. `authorization` is the value of Proxy-Authorization (RFC 9110, 11.7.2), a secret, or empty."""

    host: str
    port: int
    secure: bool = False
    authorization: str = ""

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What it requires in a request."""
        return [(b"Proxy-Authorization", self.authorization.encode())] if self.authorization else []

    async def secured(self, streams: Streams, context: ssl.SSLContext) -> Streams:
        """Begin TLS with it, if its URL says so. Raises OSError."""
        import asyncio

        if self.secure:
            async with asyncio.timeout(_TIMEOUT):
                await streams[1].start_tls(context, server_hostname=self.host)
        return streams

    async def open_tunnel(self, streams: Streams, host: str, port: int) -> Streams:
        """Ask it for a tunnel to a host. Raises OSError."""
        import asyncio

        reader, writer = streams
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [b"CONNECT %b HTTP/1.1" % target.encode(), b"Host: %b" % target.encode()]
        lines += [b"%b: %b" % header for header in self.headers]
        try:
            async with asyncio.timeout(_TIMEOUT):
                writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
        except (EOFError, asyncio.LimitOverrunError, TimeoutError) as error:
            raise OSError(f"the upstream proxy {self!r} did not answer as a proxy") from error
        status = answer.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if not status[0].startswith("HTTP/1.") or status[1:2] == []:
            raise OSError(f"the upstream proxy {self!r} did not answer in HTTP")
        if status[1] == "407":
            raise OSError(f"the upstream proxy {self!r} requires other credentials than those in its URL")
        if not status[1].startswith("2"):
            raise OSError(f"the upstream proxy {self!r} answered: {' '.join(status[1:])[:100]}")
        return streams


def parse_upstream(url: str) -> Upstream:
    """Parse the URL of a proxy. Raises SpecError, without showing the URL, which may have a password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise _invalid("it is not a URL") from error
    if parts.scheme not in _PORTS:
        raise _invalid(f"{parts.scheme[:20]!r} is not supported")
    if not host:
        raise _invalid("its host is missing")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        if not pair.isascii() or "\r" in pair or "\n" in pair:
            raise _invalid("its user name and password are not ASCII")
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Upstream(host, port, parts.scheme == "https", authorization)


def _invalid(why: str) -> SpecError:
    return SpecError(
        "the URL of the upstream proxy is invalid",
        why=why,
        next_step="HTTPS_PROXY and HTTP_PROXY are written as http://USER:PASSWORD@HOST:PORT",
    )


def upstream_urls(env: Mapping[str, str]) -> dict[str, str]:
    """Return the URLs of proxies in the environment: `https`, `http`, each checked. Raises SpecError."""
    found = {}
    for kind in ("https", "http"):
        names = (f"{kind}_proxy", f"{kind}_proxy".upper(), "all_proxy", "ALL_PROXY")
        if url := next((env[name] for name in names if env.get(name)), ""):
            parse_upstream(url)
            found[kind] = url
    return found


def no_proxy(env: Mapping[str, str]) -> str:
    """Return the hosts in the environment that are reached directly."""
    return env.get("no_proxy") or env.get("NO_PROXY") or ""


class Exceptions:
    """Hosts that are reached without the upstream proxy: the entries of NO_PROXY.

    `*` is all hosts. A name is also all names below it, as is one that begins with a dot or with `*.`; an
    address or a range is compared with addresses. Any may have a port. This machine's loopback is one always.
    """

    def __init__(self, text: str) -> None:
        self._entries = [entry.strip().lower() for entry in text.split(",") if entry.strip()]

    def match(self, host: str, port: int) -> bool:
        """Return whether a host is reached directly."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(entry, host, port, address) for entry in self._entries)


def _matches(
    entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> bool:
    if entry == "*":
        return True
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal():
        if int(number) != port:
            return False
        entry = name
    if address is not None:
        return entry.strip("[]") == host
    entry = entry.removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
