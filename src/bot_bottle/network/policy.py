"""What a bottle may reach: nothing, unless a rule allows it.

A rule for a name allows the public addresses that it resolves to. Private addresses (LAN, loopback,
link-local with the metadata service of clouds, multicast and others) need a rule of their own, since the
owner of a domain can make it resolve to any address.

Rules add up: what one of them allows is allowed, whatever others say of the same host.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from bot_bottle.errors import SpecError
from bot_bottle.host.files import write_private
from bot_bottle.network.host_ports import check_host_ports
from bot_bottle.network.presets import expand_preset
from bot_bottle.network.rule_index import RequestRules, RuleIndex, find_request_rule
from bot_bottle.network.rules import Address, Rule, address_of, name_of, parse, plain
from bot_bottle.structs import replace

if TYPE_CHECKING:
    from bot_bottle.network.caches import PackageFiles

MOST = 20_000  # entries


class Verdict(Struct, frozen=True):
    """Whether a destination may be reached: `rule` is the entry that allows it, or `reason` why not."""

    allowed: bool
    reason: str = ""
    rule: str = ""


_YES = Verdict(allowed=True)
_INVALID = Verdict(allowed=False, reason="it is not a valid host name")


class Policy(Struct, frozen=True, dict=True):
    """The rules in force. `open` allows everything, and is never the default.

    With `proxied` a bottle has its proxy even where there is no rule: it logs and can ask, and rules can be
    added. With `reading` the proxy of a running bottle can read requests. `host_ports` are ports of this
    machine's loopback, which the bottle reaches as `host.bottle`. `caches` are files of registries that the
    proxy answers from its cache, where a rule allows them.
    """

    rules: tuple[Rule, ...] = ()
    open: bool = False
    proxied: bool = False
    host_ports: tuple[int, ...] = ()
    reading: bool = False
    caches: tuple[PackageFiles, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether nothing may be reached, and no proxy is asked for, so that no network is needed."""
        return not (self.open or self.rules or self.proxied or self.host_ports)

    @property
    def reads_requests(self) -> bool:
        """Whether encrypted requests have to be read: for a rule that allows some only, or for a cache."""
        cached = any(each.encrypted for each in self.caches)
        return cached or any(rule.methods or rule.path for rule in self.rules)

    @property
    def first_name(self) -> Rule | None:
        """The first rule for one host name, which the probes try; None if there is none."""
        return next(iter(self._named), None)

    def names(self, port: int) -> list[str]:
        """Return the names, without patterns, that rules allow at a port; those with the port first."""
        found = [rule for rule in self._named if rule.port in (port, None)]
        return list(dict.fromkeys(str(rule.target) for rule in sorted(found, key=lambda rule: not rule.port)))

    def described(self) -> dict[str, object]:
        """Return the policy as a JSON document."""
        rules = [str(rule) for rule in self.rules]
        cached = {"cached": sorted({each.host for each in self.caches})} if self.caches else {}
        return {"allow": rules, "open": self.open, "host_ports": list(self.host_ports), **cached}

    def decide(self, host: str, port: int) -> Verdict:
        """Decide about a requested name or address, before a name is resolved.

        A rule that allows some requests only allows the connection; `reads` and `decide_request` say more.
        """
        return self._find(host, port)[1]

    def reads(self, host: str, port: int) -> bool:
        """Return whether requests to a host and port have to be read: it has a cache, or allows some only."""
        cached = any(each.encrypted for each in self.caches_at(host, port))
        return (cached and self.decide(host, port).allowed) or self.restricts(host, port)

    def restricts(self, host: str, port: int) -> bool:
        """Return whether a host and port are allowed for some requests only."""
        found, _ = self._find(host, port)
        return bool(found) and not any(each.unrestricted for each in found)

    def caches_at(self, host: str, port: int) -> Sequence[PackageFiles]:
        """Return the files of a host and port that there is a cache for, whether or not they are allowed."""
        return self._cached.get((host, port), ())

    def decide_request(self, host: str, port: int, method: str, path: str) -> Verdict:
        """Decide about an HTTP request. `path` is its target (RFC 9112, 3.2.1); the query is ignored."""
        found, verdict = self._find(host, port)
        if not found:
            return verdict
        try:
            rule = find_request_rule(found, method, path)
        except ValueError as error:
            return Verdict(allowed=False, reason=str(error))
        if rule is None:
            return Verdict(allowed=False, reason="its method or path is not allowed")
        return Verdict(allowed=True, rule=str(rule))

    def decide_resolved(self, address: str, port: int) -> Verdict:
        """Decide whether an allowed name may resolve to this address."""
        found = plain(ipaddress.ip_address(address))
        if self.open or _is_on_the_internet(found):
            return _YES
        verdict = _by_port(*self._index.of_address(found, port))
        if verdict.allowed:
            return verdict
        return Verdict(allowed=False, reason=f"it resolves to {found}, a private address that is not allowed")

    def _find(self, host: str, port: int) -> tuple[list[RequestRules], Verdict]:
        """Return the rules for a host and port, and the verdict about a connection to them."""
        if self.open:
            return [], _YES
        try:
            address = address_of(host)
            if address is not None:
                found, known = self._index.of_address(address, port)
            else:
                found, known = self._index.of_name(name_of(host), port)
        except (ValueError, SpecError):
            return [], _INVALID
        return found, _by_port(found, known)

    @cached_property
    def _named(self) -> list[Rule]:
        """The rules for one host name each."""
        return [rule for rule in self.rules if isinstance(rule.target, str) and rule.target[:1] != "."]

    @cached_property
    def _index(self) -> RuleIndex:
        return RuleIndex(self.rules)

    @cached_property
    def _cached(self) -> dict[tuple[str, int], list[PackageFiles]]:
        found: dict[tuple[str, int], list[PackageFiles]] = {}
        for each in self.caches:
            found.setdefault((each.host, each.port), []).append(each)
        return found


# IPv6 addresses that contain an IPv4 address, public or private: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo
_STAND_FOR_OTHERS = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)


def _is_on_the_internet(address: Address) -> bool:
    if any(address in network for network in _STAND_FOR_OTHERS):
        return False
    return address.is_global and not address.is_multicast


def _by_port(found: Sequence[RequestRules], known: bool) -> Verdict:
    if found:
        best = next((each for each in found if each.unrestricted), found[0])
        return Verdict(allowed=True, rule=str(best.first))
    return Verdict(allowed=False, reason="its port is not allowed" if known else "it is not allowed")


def parse_policy(entries: Iterable[str], *, open_: bool = False, host_ports: Iterable[int] = ()) -> Policy:
    """Parse the entries of `egress.allow`; the name of a preset stands for its entries.

    Raises SpecError for an invalid or too wide entry, and for invalid ports of this machine.
    """
    items = [entry for item in entries for entry in expand_preset(item)]
    return _make_policy(items, open_=open_, host_ports=check_host_ports(host_ports))


def _make_policy(items: Sequence[str], *, open_: bool, host_ports: tuple[int, ...]) -> Policy:
    if len(items) > MOST:
        raise SpecError(f"egress allows {len(items)} hosts; {MOST} is the most")
    if open_ and items:
        raise SpecError(
            "`open = true` and `allow` exclude each other",
            next_step="remove one: an open network already allows everything",
        )
    if open_ and host_ports:
        raise SpecError(
            "an open network and ports of this machine exclude each other",
            why="they need the proxy, and an open network has none",
            next_step="allow hosts instead of the open network",
        )
    return Policy(tuple(dict.fromkeys(parse(item) for item in items)), open_, host_ports=host_ports)


def save_policy(policy: Policy, path: Path) -> None:
    """Write a policy for a proxy that may be reading it, private to the user. Raises OSError."""
    more = {"proxied": policy.proxied, "reading": policy.reading, "caches": list(map(asdict, policy.caches))}
    write_private(path, json.dumps({**policy.described(), **more}))


def load_policy(path: Path) -> Policy:
    """Read a policy that `save_policy` wrote. Raises OSError, ValueError, SpecError."""
    document = json.loads(path.read_text("utf-8"))
    ports = check_host_ports(document.get("host_ports", ()))
    policy = _make_policy(document["allow"], open_=document["open"], host_ports=ports)
    proxied, reading = (document.get(name) is True for name in ("proxied", "reading"))
    caches = _load_caches(document.get("caches", ()))
    return replace(policy, proxied=proxied, reading=reading, caches=caches)


def _load_caches(documents: Sequence[Mapping[str, Any]]) -> tuple[PackageFiles, ...]:
    if not documents:
        return ()
    from bot_bottle.network.caches import PackageFiles

    return tuple(PackageFiles(**each) for each in documents)


def check_reading(policy: Policy, *, credentials: bool) -> None:
    """Check that requests can be read, where a rule, a credential or a cache needs it. Raises SpecError."""
    if (credentials or policy.reads_requests) and importlib.util.find_spec("mitmproxy") is None:
        raise SpecError(
            "a secret with hosts, a rule for some requests, or a cache of packages needs mitmproxy, which is"
            " not installed",
            next_step="pip install 'bot-bottle[egress]'; or allow the host for all requests (--allow),"
            " give the secret without hosts, and use --no-cache-packages",
        )


NOTHING = Policy()
