"""A name server for an emulated host, which has no other: it answers for names that the policy allows.

It answers questions for IPv4 addresses; a microVM of smolvm has no IPv6. For other kinds of records a name
has none. Who asks is not trusted: a question is answered or dropped, and nothing of it is kept.

Source: RFC 1035, 4.1 (messages) and 4.2 (UDP, TCP); RFC 6891 (its OPT record is ignored).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import cast

from msgspec import Struct

NO_SUCH_NAME, FAILED = 3, 2  # RCODE

Find = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a name. Raises LookupError for one that is not allowed, OSError where it fails."""

_HEADER = 12  # bytes
_ADDRESS, _INTERNET = 1, 1  # TYPE A, CLASS IN
_RESPONSE, _OPCODE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_LONGEST_LABEL, _LONGEST_NAME = 63, 255  # bytes
_LIFETIME = 5  # seconds; a connection is decided by its name, and resolved again, at any rate
_MOST_ADDRESSES = 8
_LARGEST = 4096  # bytes of a question over TCP
_MOST_AT_ONCE = 64
_SECONDS = 10.0  # for a question over TCP


class Question(Struct, frozen=True):
    """One question: the name in lower case, and the kind of record. `raw` is as it has to be repeated."""

    number: bytes
    flags: int
    name: str
    kind: int
    raw: bytes


def parse_question(message: bytes) -> Question:
    """Parse a message that asks one question. Raises ValueError for any other."""
    if len(message) < _HEADER:
        raise ValueError("too short")
    flags = int.from_bytes(message[2:4], "big")
    if flags & (_RESPONSE | _OPCODE) or message[4:6] != b"\0\1":
        raise ValueError("not one standard question")
    labels, at = [], _HEADER
    while at < len(message) and (size := message[at]):
        if size > _LONGEST_LABEL:
            raise ValueError("a label is compressed")
        labels.append(message[at + 1 : at + 1 + size])
        at += 1 + size
    end = at + 5  # the root label, type and class
    if len(message) < end or not labels or at - _HEADER >= _LONGEST_NAME:
        raise ValueError("not a name")
    if message[at + 3 : end] != _INTERNET.to_bytes(2, "big"):
        raise ValueError("not of the internet")
    name = b".".join(labels).decode("ascii").lower()  # a UnicodeDecodeError is a ValueError
    if b"." in b"".join(labels):
        raise ValueError("a label with a dot")
    kind = int.from_bytes(message[at + 1 : at + 3], "big")
    return Question(message[:2], flags, name, kind, message[_HEADER:end])


def answer(question: Question, addresses: Sequence[str], status: int = 0) -> bytes:
    """Return the answer with the IPv4 ones of the addresses, or with a failure's RCODE."""
    found = [each for each in map(ipaddress.ip_address, addresses) if each.version == 4]
    record = b"\xc0\x0c" + _ADDRESS.to_bytes(2, "big") + _INTERNET.to_bytes(2, "big")
    record += _LIFETIME.to_bytes(4, "big") + b"\0\4"
    records = [record + each.packed for each in found[:_MOST_ADDRESSES]] if question.kind == _ADDRESS else []
    flags = _RESPONSE | (question.flags & _RECURSION_DESIRED) | _RECURSION_AVAILABLE | status
    counts = b"\0\1" + len(records).to_bytes(2, "big") + bytes(4)
    return question.number + flags.to_bytes(2, "big") + counts + question.raw + b"".join(records)


class NameServer(asyncio.DatagramProtocol):
    """Answers questions that come in datagrams, and over TCP with `serve`."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember what to answer with."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a datagram; drop it while too many wait for an answer, as a resolver asks again."""
        if len(self._tasks) >= _MOST_AT_ONCE:
            return
        task = asyncio.create_task(self._send(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, data: bytes, address: tuple[str, int]) -> None:
        with suppress(ValueError):
            found = await self.reply(data)
            if self._transport is not None:
                self._transport.sendto(found, address)

    async def reply(self, message: bytes) -> bytes:
        """Return the answer to a message. Raises ValueError for one that is not a question."""
        question = parse_question(message)
        if question.kind != _ADDRESS:
            return answer(question, [])
        try:
            return answer(question, await self._find(question.name))
        except LookupError:
            return answer(question, [], NO_SUCH_NAME)
        except OSError:
            return answer(question, [], FAILED)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of a TCP connection, one after the other."""
        with suppress(ValueError, OSError, TimeoutError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    if size > _LARGEST:
                        break
                    message = await reader.readexactly(size)
                found = await self.reply(message)
                writer.write(len(found).to_bytes(2, "big") + found)
                await writer.drain()
        writer.close()
