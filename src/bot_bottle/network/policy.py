"""What a bottle may reach: nothing, unless a rule allows it.

A rule for a name allows the public addresses that it resolves to. Private addresses (LAN, loopback,
link-local with the metadata service of clouds, multicast and others) need a rule of their own, since the
owner of a domain can make it resolve to any address.
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
    """Whether a destination may be reached; if not, `reason` is for the log."""

    allowed: bool
    reason: str = ""


_YES = Verdict(allowed=True)


@dataclass(frozen=True)
class Policy:
    """The rules in force. `open` allows everything, and is never the default."""

    rules: tuple[Rule, ...] = ()
    open: bool = False

    @property
    def closed(self) -> bool:
        """Whether nothing may be reached, so that no network is needed."""
        return not self.open and not self.rules

    @property
    def first_name(self) -> Rule | None:
        """The first rule for one host name, which the probes try; None if there is none."""
        named = (
            rule for rule in self.rules if isinstance(rule.target, str) and not rule.target.startswith(".")
        )
        return next(named, None)

    def described(self) -> dict[str, object]:
        """Return the policy as a JSON document."""
        return {"allow": [str(rule) for rule in self.rules], "open": self.open}

    def decide(self, host: str, port: int) -> Verdict:
        """Decide about a requested name or address, before a name is resolved."""
        if self.open:
            return _YES
        try:
            address = address_of(host)
            name = "" if address else name_of(host)
        except (ValueError, SpecError):
            return Verdict(allowed=False, reason="it is not a valid host name")
        if address is not None:
            return self._decide_address(address, port)
        ports = self._names.get(name, frozenset())
        for place in (index for index, char in enumerate(name) if char == "."):
            ports |= self._names.get(name[place:], frozenset())
        return _by_port(ports, port)

    def decide_resolved(self, address: str, port: int) -> Verdict:
        """Decide whether an allowed name may resolve to this address."""
        found = plain(ipaddress.ip_address(address))
        if self.open or _is_on_the_internet(found):
            return _YES
        if self._decide_address(found, port).allowed:
            return _YES
        return Verdict(allowed=False, reason=f"it resolves to {found}, a private address that is not allowed")

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


# IPv6 addresses that contain an IPv4 address, public or private: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo
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
    """Parse the entries of `egress.allow`. Raises SpecError for an invalid or too wide entry."""
    items: Sequence[str] = list(entries)
    if len(items) > MOST:
        raise SpecError(f"egress allows {len(items)} hosts; {MOST} is the most")
    if open_ and items:
        raise SpecError(
            "`open = true` and `allow` exclude each other",
            next_step="remove one: an open network already allows everything",
        )
    return Policy(tuple(dict.fromkeys(parse(item) for item in items)), open_)


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy for a proxy that may be reading it, private to the user. Raises OSError."""
    write_private(path, json.dumps(policy.described()))


def load_policy(path: Path) -> Policy:
    """Read a policy that `save_policy` wrote. Raises OSError, ValueError, SpecError."""
    document = json.loads(path.read_text("utf-8"))
    return parse_policy(document["allow"], open_=document["open"])


NOTHING = Policy()
