"""Files of package registries, from the cache or from the registry, for a client whose request was allowed.

A file that is not stored is requested by the proxy itself (see `registry_client`), so what is stored is what
the registry gives to anybody, and a bottle cannot change it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, BinaryIO

import h11
from msgspec import Struct

from bot_bottle.cache.packages import PackageStore, Record, Recording, read_file
from bot_bottle.network.caches import PackageFile
from bot_bottle.network.dialing import Streams
from bot_bottle.network.proxy.exchange import Server, next_event
from bot_bottle.network.proxy.first_bytes import LARGEST
from bot_bottle.network.proxy.package_requests import (
    Fields,
    is_plain_get,
    may_be_stored,
    stored_headers,
    wants_fresh,
)
from bot_bottle.network.proxy.registry_client import RegistryClient
from bot_bottle.network.proxy.request_head import forwarded_headers

if TYPE_CHECKING:
    from bot_bottle.network.proxy.engine import Engine

_STATUS = "Cache-Status"  # RFC 9211

Body = AsyncGenerator[bytes, None]


class Wanted(Struct, frozen=True):
    """A file that a client requests; `fresh` is whether it does not take a stored one."""

    file: PackageFile
    fresh: bool


class PackageCache:
    """The cache of one proxy. `authorities` is a file of those that registries are checked against."""

    def __init__(self, engine: Engine, store: PackageStore, authorities: str | None) -> None:
        self._engine, self._store = engine, store
        self._registries = RegistryClient(engine, authorities)
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, host: str, port: int, method: str, target: str, fields: Fields) -> Wanted | None:
        """Return the file that an allowed request is for; None if the cache does not answer it."""
        fields, policy = list(fields), self._engine.policy
        for each in policy.caches_at(host, port):
            if (file := each.find(target)) is None:
                continue
            allowed = policy.decide_request(file.host, file.port, "GET", file.target).allowed
            if allowed and is_plain_get(method, fields):
                return Wanted(file, wants_fresh(fields))
        return None

    async def open(self, wanted: Wanted) -> tuple[Streams, bool]:
        """Return a connection whose one request is answered with a file, and whether that was stored before.

        Raises RefusedError where the registry cannot be reached.
        """
        stored = None
        if not wanted.fresh:
            loop = asyncio.get_running_loop()
            stored = await loop.run_in_executor(None, self._store.open, wanted.file.url)
        head, body = _stored(*stored) if stored is not None else await self._fetch(wanted.file)
        ours, theirs = socket.socketpair()
        streams = await asyncio.open_connection(sock=ours)
        task = asyncio.create_task(_answer(streams, head, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.open_connection(sock=theirs), stored is not None

    async def _fetch(self, file: PackageFile) -> tuple[h11.Response, Body]:
        """Return the registry's response, which is stored on its way. Raises RefusedError."""
        server, response = await self._registries.request(file)
        recording = None
        if may_be_stored(response.status_code, response.headers):
            recording = self._store.add(file.url, stored_headers(response.headers))
        headers = forwarded_headers(response)
        head = h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
        return head, self._fetched(server, file, recording)

    async def _fetched(self, server: Server, file: PackageFile, recording: Recording | None) -> Body:
        """Yield the body of a response. Its last part comes after the file has been checked and stored."""
        last, digest = b"", file.new_hash() if recording is not None else None
        try:
            async with aclosing(self._registries.read(server)) as body:
                async for data in body:
                    if digest is not None:
                        digest.update(data)
                    if recording is not None:
                        recording.write(data)
                    if last:
                        yield last
                    last = data
            if digest is not None and digest.hexdigest() != file.digest:
                raise OSError(f"{file.url} does not have the hash in its path")
            if recording is not None:
                await asyncio.get_running_loop().run_in_executor(None, recording.publish)
            yield last
        finally:
            if recording is not None:
                recording.close()


def _stored(file: BinaryIO, record: Record) -> tuple[h11.Response, Body]:
    """Return the response with a stored file."""
    age = max(0, int(time.time() - record.stored))
    headers = [*record.headers.items(), ("Content-Length", str(record.size)), ("Age", str(age))]
    head = h11.Response(status_code=200, headers=[*headers, (_STATUS, "bot-bottle; hit")], reason="OK")
    return head, _read(file, record.size)


async def _read(file: BinaryIO, size: int) -> Body:
    with file:
        for data in read_file(file, size):
            yield data


async def _answer(streams: Streams, head: h11.Response, body: Body) -> None:
    """Answer the one request of a connection. Where the body ends early, so does the connection."""
    reader, writer = streams
    http = h11.Connection(h11.SERVER, LARGEST)
    try:
        async with aclosing(body):
            while not isinstance(await next_event(http, reader), h11.EndOfMessage):
                pass
            writer.write(http.send(head) or b"")
            async for data in body:
                writer.write(http.send(h11.Data(data=data)) or b"")
                await writer.drain()
            writer.write(http.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            writer.close()
    except (OSError, h11.ProtocolError):
        pass
    finally:
        if not writer.is_closing():
            writer.transport.abort()
