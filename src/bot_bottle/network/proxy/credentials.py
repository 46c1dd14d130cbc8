"""The credentials in a proxy: which hosts get which, and the values in force (see `network.values`)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from bot_bottle.network.proxy.config import ProxiedSecret
from bot_bottle.network.values import LINE

_SECONDS = 60.0  # for an answer; after it the last value is used


class Substitutions(Struct, frozen=True):
    """What replaces the placeholders in a request's headers, and in its body."""

    headers: Mapping[bytes, bytes]
    body: Mapping[bytes, bytes]


class _Held(Struct):
    secret: ProxiedSecret
    value: bytes
    refused: bool = False

    @property
    def placeholder(self) -> bytes:
        return self.secret.placeholder.encode()


class ValueChannel:
    """The proxy's end of the channel, which is opened when it is first needed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._opening = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[str, asyncio.Future[str | None]] = {}

    async def ask(self, name: str, *, refused: bool) -> str | None:
        """Return the value in force; None if it is the last one, or nobody answers."""
        async with self._opening:
            if self._writer is None:
                await self._open()
        if (future := self._waiting.get(name)) is None:
            if self._reading is None or self._reading.done() or self._writer is None:
                return None
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
            self._writer.write(json.dumps({"name": name, "refused": refused}).encode() + b"\n")
        try:
            return await asyncio.wait_for(asyncio.shield(future), _SECONDS)
        except TimeoutError:
            return None

    async def _open(self) -> None:
        plug = socket.socket(fileno=self._descriptor)
        reader, self._writer = await asyncio.open_unix_connection(sock=plug, limit=LINE)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with suppress(OSError):
                while line := await reader.readline():
                    answer = json.loads(line)
                    self._conclude(answer["name"], answer["value"])
        finally:
            for name in list(self._waiting):
                self._conclude(name, None)

    def _conclude(self, name: str, value: str | None) -> None:
        future = self._waiting.pop(name, None)
        if future is not None and not future.done():
            future.set_result(value)


class Credentials:
    """The credentials of a bottle. `on_change` is called with each new value before it is used."""

    def __init__(
        self,
        secrets: Sequence[tuple[ProxiedSecret, bytes]],
        channel: ValueChannel | None,
        on_change: Callable[[str], None],
    ) -> None:
        self._channel = channel
        self._on_change = on_change
        self._by_host: dict[str, list[_Held]] = {}
        for secret, value in secrets:
            held = _Held(secret, value)
            for host in secret.hosts:
                self._by_host.setdefault(host, []).append(held)

    def __contains__(self, host: str) -> bool:
        """Return whether a host gets one."""
        return host in self._by_host

    async def substitutions(self, host: str) -> Substitutions:
        """Return the values in force for a host."""
        found = self._by_host.get(host, [])
        await asyncio.gather(*(self._renew(held) for held in found if held.secret.changes))
        return Substitutions(
            {held.placeholder: held.value for held in found},
            {held.placeholder: held.value for held in found if held.secret.body},
        )

    async def _renew(self, held: _Held) -> None:
        if self._channel is None:
            return
        refused, held.refused = held.refused, False
        value = await self._channel.ask(held.secret.name, refused=refused)
        if value is not None:
            self._on_change(value)
            held.value = value.encode()

    def refuse(self, host: str, given: Substitutions) -> None:
        """Remember that a server has refused these values, unless there are other ones by now."""
        for held in self._by_host.get(host, []):
            if given.headers.get(held.placeholder) == held.value:
                held.refused = True
