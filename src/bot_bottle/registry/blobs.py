"""Blobs: GET, HEAD and DELETE. Bodies go from the file to the socket in the kernel (sendfile).

Source: OCI distribution-spec v1.1, "Pulling blobs", "Deleting Blobs"; RFC 9110, 14 (Range).
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.image.layers import Blob
from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import Answer, Refusal
from bot_bottle.registry.repositories import Service
from bot_bottle.registry.routes import Route
from bot_bottle.registry.store import UnknownBlob

_STRETCH = 16 << 20  # bytes that a client has to receive within one idle time


async def get(service: Service, request: BaseRequest, route: Route) -> web.StreamResponse:
    """Send a blob, or one range of it."""
    digest = route.digest
    if service.writable and not service.repositories.has_blob(digest, route.name):
        await _adopt(service, route, digest)
    _known(service, route)
    headers = {
        "Docker-Content-Digest": str(digest),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": f'"{digest}"',
    }
    try:
        with service.repositories.store.open(digest) as blob:
            status, start, count = _asked(request, headers, blob.size)
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = count
            await response.prepare(request)
            if request.method != "HEAD":
                await _send(service, request, blob, start, count)
            await response.write_eof()
            return response
    except UnknownBlob as error:
        raise Refusal(
            Answer.BLOB_UNKNOWN, "blob unknown to registry", detail={"digest": str(digest)}
        ) from error


async def delete(service: Service, _request: BaseRequest, route: Route) -> web.StreamResponse:
    """Remove a blob from the repository."""
    digest = _known(service, route)
    repository = service.repositories.find(route.name)
    assert repository is not None  # noqa: S101 - it has the blob
    repository.blobs.discard(digest)
    await service.on_disk(service.repositories.release, digest)
    return web.Response(status=202)


async def _adopt(service: Service, route: Route, digest: Digest) -> None:
    """Restore a blob of an earlier registry, if the client may push: it asks before it uploads."""
    if await service.on_disk(service.repositories.store.adopt, digest):
        service.repositories.make(route.name).add_blob(digest)


def _known(service: Service, route: Route) -> Digest:
    digest = route.digest
    if not service.repositories.has_blob(digest, route.name):
        raise Refusal(Answer.BLOB_UNKNOWN, "blob unknown to registry", detail={"digest": str(digest)})
    return digest


def _asked(request: BaseRequest, headers: dict[str, str], size: int) -> tuple[int, int, int]:
    """Return the status, first byte and count that a request asks for (RFC 9110, 14.2)."""
    wanted = request.headers.get("Range")
    condition = request.headers.get("If-Range", headers["ETag"])
    if wanted is None or condition != headers["ETag"] or request.method != "GET":
        return 200, 0, size
    found = byte_range(wanted, size)
    if found is None:
        return 200, 0, size
    start, count = found
    headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
    return 206, start, count


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Parse a Range header; return the first byte and the count, or None where all is to be sent.

    Source: RFC 9110, 14.1.2 and 14.2: what is malformed, or has several ranges, is ignored. aiohttp's own
    `http_range` is not it: it takes `bytes=-0`, the last 0 bytes, for all of them. Raises Refusal for a range
    outside the content.
    """
    unit, _, spec = header.partition("=")
    first, dash, last = spec.strip().partition("-")
    digits = first + last
    if unit.strip() != "bytes" or not dash or not (digits.isascii() and digits.isdigit()) or len(digits) > 38:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise Refusal(Answer.RANGE_INVALID, "no such bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, end - start


async def _send(service: Service, request: BaseRequest, blob: Blob, start: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    end = start + count
    try:
        while start < end:
            stretch = min(end - start, _STRETCH)
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client has disconnected")
            async with asyncio.timeout(service.limits.idle):
                # sendfile wants a file object, but only uses its descriptor
                sent = await loop.sendfile(transport, _File(blob.fd), blob.offset + start, stretch)  # type: ignore[arg-type]
            if sent < stretch:
                raise ConnectionAbortedError("the file has become shorter")
            start += sent
    except BaseException:
        if request.transport is not None:
            request.transport.abort()  # a truncated body must not look complete
        raise


class _File:
    """A file object as far as sendfile needs one."""

    mode = "rb"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd
