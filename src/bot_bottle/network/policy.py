"""What a bottle may reach. Nothing, unless it is named.

A name allows what it resolves to on the internet. An address in the machine's own neighbourhood (the LAN,
loopback, link-local with the clouds' metadata service, multicast, and the like) is closed even if an allowed
name leads there, as long as it is not named itself: whoever holds a domain can let it point anywhere.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bot_bottle.errors import SpecError
from bot_bottle.host.files import write_private
from bot_bottle.network.rules import Address, Network, Rule, address_of, name_of, parse, plain

MOST = 20_000  # entries


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something may be reached; if not, `reason` says why, for the log."""

    allowed: bool
    reason: str = ""


_YES = Verdict(allowed=True)


@dataclass(frozen=True)
class Policy:
    """The rules in force. `open` lets everything out, and is never the default."""

    rules: tuple[Rule, ...] = ()
    open: bool = False

    @property
    def closed(self) -> bool:
        """Whether nothing at all may be reached, so that no network is needed."""
        return not self.open and not self.rules

    @property
    def first_name(self) -> Rule | None:
        """The first rule that names one host, to be tried; None if there is none."""
        named = (
            rule for rule in self.rules if isinstance(rule.target, str) and not rule.target.startswith(".")
        )
        return next(named, None)

    def described(self) -> dict[str, object]:
        """Give it as a JSON document."""
        return {"allow": [str(rule) for rule in self.rules], "open": self.open}

    def decide(self, host: str, port: int) -> Verdict:
        """Decide by what was asked for, before anything is resolved: a name, or an address."""
        if self.open:
            return _YES
        try:
            address = address_of(host)
            name = "" if address else name_of(host)
        except (ValueError, SpecError):
            return Verdict(allowed=False, reason="it is no host")
        if address is not None:
            return self._decide_address(address, port)
        ports = self._names.get(name, frozenset())
        for place in (index for index, char in enumerate(name) if char == "."):
            ports |= self._names.get(name[place:], frozenset())
        return _by_port(ports, port)

    def decide_resolved(self, address: str, port: int) -> Verdict:
        """Decide whether an allowed name may lead to this address."""
        found = plain(ipaddress.ip_address(address))
        if self.open or _is_on_the_internet(found):
            return _YES
        if self._decide_address(found, port).allowed:
            return _YES
        return Verdict(
            allowed=False, reason=f"it is at {found}, which is not on the internet and not allowed"
        )

    def _decide_address(self, address: Address, port: int) -> Verdict:
        found = [ports for network, ports in self._networks if address in network]
        return _by_port(frozenset().union(*found), port)

    @cached_property
    def _names(self) -> dict[str, frozenset[int | None]]:
        names: dict[str, frozenset[int | None]] = {}
        for rule in self.rules:
            if isinstance(rule.target, str):
                names[rule.target] = names.get(rule.target, frozenset()) | {rule.port}
        return names

    @cached_property
    def _networks(self) -> list[tuple[Network, frozenset[int | None]]]:
        networks: dict[Network, frozenset[int | None]] = {}
        for rule in self.rules:
            if not isinstance(rule.target, str):
                networks[rule.target] = networks.get(rule.target, frozenset()) | {rule.port}
        return list(networks.items())


# IPv6 addresses that stand for IPv4 ones, which may be of any kind: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo
_STAND_FOR_OTHERS = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)


def _is_on_the_internet(address: Address) -> bool:
    if any(address in network for network in _STAND_FOR_OTHERS):
        return False
    return address.is_global and not address.is_multicast


def _by_port(ports: frozenset[int | None], port: int) -> Verdict:
    if None in ports or port in ports:
        return _YES
    return Verdict(allowed=False, reason="its port is not allowed" if ports else "it is not allowed")


def parse_policy(entries: Iterable[str], *, open_: bool = False) -> Policy:
    """Read what is allowed. Raises SpecError for an entry that is wrong, or means more than it seems to."""
    items: Sequence[str] = list(entries)
    if len(items) > MOST:
        raise SpecError(f"egress allows {len(items)} hosts; {MOST} is the most")
    if open_ and items:
        raise SpecError(
            "egress is open, and names what is allowed",
            next_step="take one away: what is open has no walls to make holes in",
        )
    return Policy(tuple(dict.fromkeys(parse(item) for item in items)), open_)


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy down for a proxy that may be reading it, private to the user. Raises OSError."""
    write_private(path, json.dumps(policy.described()))


def load_policy(path: Path) -> Policy:
    """Read a policy that was written down. Raises OSError, ValueError, SpecError."""
    document = json.loads(path.read_text("utf-8"))
    return parse_policy(document["allow"], open_=document["open"])


NOTHING = Policy()
