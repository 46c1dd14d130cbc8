"""A resolver of the user's choice, instead of this machine's: the variable BOT_BOTTLE_RESOLVER.

Nothing else is asked then: neither this machine's hosts file nor its resolver.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from typing import TYPE_CHECKING

from bot_bottle.errors import SpecError

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as Stub

VARIABLE = "BOT_BOTTLE_RESOLVER"

_PORT = 53
_TIMEOUT = 10.0  # seconds


def parse_resolver(text: str) -> tuple[str, int]:
    """Parse `192.0.2.53`, `192.0.2.53:5353` or `[2001:db8::53]:53`. Raises SpecError."""
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, number = text, str(_PORT)
    try:
        address, port = ipaddress.ip_address(host.strip("[]")), int(number)
        if not 0 < port < 65536:
            raise ValueError("the port is not valid")
    except ValueError as error:
        raise SpecError(
            f"{VARIABLE} is invalid: {text[:60]!r}",
            why=str(error),
            next_step="write the address of a DNS server, with a port if it is not 53: 192.0.2.53:5353",
        ) from error
    if importlib.util.find_spec("dns") is None:
        raise SpecError(
            f"{VARIABLE} needs dnspython, which is not installed",
            next_step="pip install 'bot-bottle[egress]'",
        )
    return str(address), port


class Resolver:
    """Asks one DNS server (RFC 1035), by UDP, and by TCP for long answers."""

    def __init__(self, address: str, port: int) -> None:
        from dns.asyncresolver import Resolver as Stub  # takes a while to load

        self._stub: Stub = Stub(configure=False)
        self._stub.nameservers, self._stub.port, self._stub.lifetime = [address], port, _TIMEOUT

    async def resolve(self, host: str, port: int) -> list[str]:  # noqa: ARG002 - as `dialing.resolve`
        """Return the addresses of a host, IPv4 first. Raises OSError."""
        import asyncio  # only here: every command loads this module, and the proxy alone resolves

        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        answers = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"), return_exceptions=True)
        found = [address for answer in answers if isinstance(answer, list) for address in answer]
        if not found:
            failures = [answer for answer in answers if isinstance(answer, OSError)]
            raise failures[0] if failures else OSError("it has no address")
        return list(dict.fromkeys(found))

    async def _ask(self, host: str, kind: str) -> list[str]:
        from dns.exception import DNSException
        from dns.resolver import NoAnswer

        try:
            answer = await self._stub.resolve(f"{host}.", kind, search=False)
        except NoAnswer:
            return []
        except (DNSException, ValueError) as error:
            raise OSError(str(error)) from error
        return [record.to_text() for record in answer]
