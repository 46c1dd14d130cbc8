"""How smolvm hands over the connections of a microVM: its protocol of an egress interceptor, version 1.

smolvm (1.32: `machine start --egress-interceptor`) makes a connection to us for each TCP connection of the
machine, after its own rules have allowed the address. It begins with a head, all numbers big-endian:

    8 bytes "SMOLICPT", 1 byte version (1), 32 bytes token, 1 byte family (4 or 6), 2 bytes port,
    4 or 16 bytes address

and we answer with one byte: ACCEPTED, after which both sides send what the connection's ends send, or any
other, at which the machine sees a reset. The token is sent to any program that listens on our port; it only
shows us that a connection comes from the smolvm that we have started, and not from another program.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets

from msgspec import Struct

from bot_bottle.network.rules import plain

ACCEPTED = b"\0"

# Addresses of ours, in a documentation range (RFC 5737): at one the bottle finds its HTTP proxy, at one the
# services of this machine; at PROVED the proxy answers any request, which proves that smolvm hands over.
PROVED, PROXY, HOST = "192.0.2.201", "192.0.2.203", "192.0.2.204"

TOKEN = "SMOLVM_INTERCEPTOR_TOKEN"  # noqa: S105 - the name of smolvm's variable

_MAGIC, _VERSION = b"SMOLICPT", 1
_TOKEN_SIZE = 32  # bytes
_HEAD_SIZE = len(_MAGIC) + 1 + _TOKEN_SIZE + 1 + 2
_ADDRESS_SIZES = {4: 4, 6: 16}
_SECONDS = 10.0  # for a head; smolvm sends it at once


class ProtocolError(ValueError):
    """What arrived is not the head of a connection of our smolvm."""


class Destination(Struct, frozen=True):
    """Where a connection of the machine leads to. An IPv4-mapped IPv6 address is given as IPv4."""

    address: str
    port: int


def make_token() -> str:
    """Return a new token, as smolvm's variable has it: 64 hexadecimal digits."""
    return secrets.token_hex(_TOKEN_SIZE)


def parse_head(data: bytes, token: str) -> Destination | None:
    """Return where a connection leads to, or None while its head is not complete.

    Raises ProtocolError as soon as it is known that it is not a head, has another token, or is followed by
    more, which smolvm sends after our answer only.
    """
    expected = _MAGIC + bytes([_VERSION]) + bytes.fromhex(token)
    start, rest = data[: len(expected)], data[len(expected) :]
    if not hmac.compare_digest(start, expected[: len(start)]):
        raise ProtocolError("it is not a connection of this bottle's smolvm")
    if not rest:
        return None
    size = _ADDRESS_SIZES.get(rest[0])
    if size is None:
        raise ProtocolError(f"unknown address family {rest[0]}")
    if len(rest) > 3 + size:
        raise ProtocolError("it goes on before it was accepted")
    if len(rest) < 3 + size:
        return None
    port = int.from_bytes(rest[1:3], "big")
    if not port:
        raise ProtocolError("the port is 0")
    return Destination(str(plain(ipaddress.ip_address(rest[3:]))), port)


async def read_head(reader: asyncio.StreamReader, token: str, seconds: float = _SECONDS) -> Destination:
    """Read the head of a connection. Raises ProtocolError, also for one that does not come in time."""
    data = b""
    try:
        async with asyncio.timeout(seconds):
            while (found := parse_head(data, token)) is None:
                more = await reader.read(_HEAD_SIZE + _ADDRESS_SIZES[6])
                if not more:
                    raise ProtocolError("it ended before its head did")
                data += more
    except TimeoutError:
        raise ProtocolError(f"no head within {seconds:g} s") from None
    except OSError as error:
        raise ProtocolError(str(error)) from error
    return found
