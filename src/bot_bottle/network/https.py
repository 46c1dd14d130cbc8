"""One HTTPS request from this machine, by the same ways out as the proxy's (see `proxy.outside`)."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import h11

from bot_bottle.network.authorities import has_own_authorities, write_authorities
from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.outside import Outside
from bot_bottle.network.proxy.resolver import VARIABLE, Resolver, parse_resolver
from bot_bottle.network.proxy.upstream import Exceptions, no_proxy, parse_upstream, upstream_urls

_LARGEST = 1 << 20  # bytes of an answer


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> tuple[int, bytes]:
    """Send a POST request; return the status of the answer, and its body.

    The upstream proxy, authorities and resolver of the environment are used. Redirects are not followed.
    Raises OSError, SpecError for variables that cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="bottle-") as folder:
        authorities = None
        if has_own_authorities(os.environ):
            authorities = f"{folder}/authorities.pem"
            write_authorities(os.environ, Path(authorities))
        return asyncio.run(_post(url, body, headers, seconds, authorities))


async def _post(
    url: str, body: bytes, headers: Mapping[str, str], seconds: float, authorities: str | None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    resolver = os.environ.get(VARIABLE)
    urls = upstream_urls(os.environ)
    outside = Outside(
        Resolver(*parse_resolver(resolver)) if resolver else None,
        {kind: parse_upstream(each) for kind, each in urls.items()},
        Exceptions(no_proxy(os.environ)),
        authorities,
    )
    context = ssl.create_default_context(cafile=authorities or _usual())
    try:
        async with asyncio.timeout(seconds):
            upstream = outside.upstream(host, port, "https")
            addresses = await outside.resolve(host, port, upstream)
            streams = await outside.connect(host, port, addresses, upstream)
            try:
                await streams[1].start_tls(context, server_hostname=host)
                return await _exchange(streams, parts.netloc, parts.path or "/", body, headers)
            finally:
                streams[1].transport.abort()
    except TimeoutError:
        raise OSError(f"no answer within {seconds:g} s") from None
    except h11.ProtocolError as error:
        raise OSError(f"the answer is not HTTP: {error}") from error


def _usual() -> str:
    import certifi  # the proxy's; not needed to print help

    return certifi.where()


async def _exchange(
    streams: Streams, authority: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    reader, writer = streams
    connection = h11.Connection(h11.CLIENT)
    fields = {"Host": authority, "Accept": "application/json", "Connection": "close", **headers}
    request = h11.Request(
        method="POST", target=path, headers=[*fields.items(), ("Content-Length", str(len(body)))]
    )
    for event in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    status, data = 0, b""
    while True:
        found = connection.next_event()
        if found is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(found, h11.Response):
            status = found.status_code
        elif isinstance(found, h11.Data):
            data += found.data
            if len(data) > _LARGEST:
                raise OSError("the answer is too large")
        elif isinstance(found, h11.EndOfMessage | h11.ConnectionClosed):
            return status, data
