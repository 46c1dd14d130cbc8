"""What the handlers share: the registry's state, its limits, and the reading of bodies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web
from aiohttp.web_request import BaseRequest

from bot_bottle.registry.errors import (
    EncodingUnsupported,
    RangeInvalid,
    SizeInvalid,
    Stalled,
    TooLarge,
)
from bot_bottle.registry.repositories import Repositories

T = TypeVar("T")

_PIECE = 1 << 20  # bytes handed to the disk at once


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. Sizes are in bytes, times in seconds."""

    manifest: int = 4 << 20  # the specification asks for at least that much
    blob: int = 64 << 30
    connections: int = 256
    idle: float = 60.0  # a connection without a request, and a body that does not move


@dataclass(frozen=True, slots=True)
class Service:
    """One registry: its content, the prefix of its repositories, and whether it takes pushes."""

    repositories: Repositories
    prefix: str
    writable: bool = False
    limits: Limits = Limits()
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "registry-disk"))

    async def on_disk(self, work: Callable[..., T], *args: object) -> T:
        """Do something that waits for the disk or hashes much, beside the event loop."""
        future = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])  # what it writes to must not be closed under it
            raise

    async def body(self, request: BaseRequest, limit: int) -> bytes:
        """Read a small body whole. Raises TooLarge."""
        data = bytearray()
        async for piece in self.pieces(request, limit):
            data += piece
        return bytes(data)

    async def pieces(self, request: BaseRequest, limit: int) -> AsyncIterator[bytes | bytearray]:
        """Give a body in pieces, as they come. Raises TooLarge, SizeInvalid, Stalled."""
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise EncodingUnsupported("a body must not have a content encoding")
        if (request.content_length or 0) > limit:
            raise TooLarge(f"{limit} bytes are the most that is taken here")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        count = 0
        gathered = bytearray()
        while piece := await self._some(request):
            count += len(piece)
            if count > limit:
                raise TooLarge(f"{limit} bytes are the most that is taken here")
            gathered += piece
            if len(gathered) >= _PIECE:
                yield gathered
                gathered = bytearray()
        if gathered:
            yield gathered

    async def _some(self, request: BaseRequest) -> bytes:
        try:
            async with asyncio.timeout(self.limits.idle):
                return await request.content.readany()
        except TimeoutError:
            raise Stalled(f"nothing came for {self.limits.idle:g} s") from None
        except web.RequestPayloadError as error:
            raise SizeInvalid("the body is not what its headers say", detail=str(error)[:200]) from error


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Read a Range header: give the first byte and the count, or None where all is to be sent.

    Source: RFC 9110, 14.1.2 and 14.2: what is malformed, or has several ranges, is ignored. Raises
    RangeInvalid for a range outside the content.
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
        raise RangeInvalid("no such bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, end - start
