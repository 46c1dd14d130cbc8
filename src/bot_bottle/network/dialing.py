"""Connecting to the first of several addresses that answers, as a client with IPv4 and IPv6 does (RFC 8305).

Each attempt gets a moment before the next address is tried beside it; the first connection is used, and the
others are closed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MOST = 8  # addresses that are tried
_PAUSE = 0.25  # seconds before the next address is tried too (RFC 8305, section 5)
_CONNECT = 30.0  # seconds for all of them
_RESOLVE = 20.0  # seconds


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, the preferred first. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(f"no answer within {_RESOLVE:g} s") from None
    except UnicodeError as error:
        raise OSError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def alternate(addresses: Sequence[str]) -> list[str]:
    """Return the first MOST addresses, by turns of each family (RFC 8305, section 4), in their order."""
    families: dict[int, list[str]] = {}
    for address in addresses:
        families.setdefault(ipaddress.ip_address(address).version, []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None][:MOST]


async def connect(addresses: Sequence[str], port: int) -> Streams:
    """Connect to the first of the addresses that answers. Raises OSError, of the last one, if none does."""
    waiting, running = alternate(addresses), set[asyncio.Task[Streams]]()
    failure: BaseException = OSError("there is no address")
    try:
        async with asyncio.timeout(_CONNECT):
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(asyncio.open_connection(waiting.pop(0), port)))
                pause = _PAUSE if waiting else None
                done, _ = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    running.discard(attempt)
                    if (failed := attempt.exception()) is None:
                        return attempt.result()
                    failure = failed
    except TimeoutError:
        raise OSError(f"no answer within {_CONNECT:g} s") from None
    finally:
        await _close(running)
    raise failure


async def _close(attempts: set[asyncio.Task[Streams]]) -> None:
    """End attempts that are not needed, and close what they have connected to."""
    for attempt in attempts:
        attempt.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if not isinstance(result, BaseException):
            result[1].close()
