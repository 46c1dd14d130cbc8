"""Finds the rules for a host, port and request, in a time that does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from msgspec import Struct, field

from bot_bottle.network.request_paths import canonical_path, is_plain
from bot_bottle.network.rules import Address, Rule

_Key = str | tuple[int, int, int]  # a name; version, prefix length and first address of a range
_Methods = dict[str, Rule]  # by method; "" for all of them


class RequestRules(Struct):
    """The rules of one target and port, by their paths and methods."""

    exact: dict[str, _Methods] = field(default_factory=dict)
    prefixes: dict[str, _Methods] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)  # of the prefixes
    wild: dict[_Shape, dict[str, _Methods]] = field(default_factory=dict)

    def add(self, rule: Rule) -> None:
        """Add a rule."""
        start = rule.path.removesuffix("*")
        if "*" in start:
            segments = rule.path.split("/")
            rest = segments[-1] == "*"
            segments = segments[:-1] if rest else segments
            stars = tuple(place for place, segment in enumerate(segments) if segment == "*")
            paths = self.wild.setdefault(_Shape(len(segments), stars, rest), {})
            found = paths.setdefault("/".join(segments), {})
        elif rule.path == start != "":
            found = self.exact.setdefault(start, {})
        else:
            found = self.prefixes.setdefault(start, {})
            self.lengths.add(len(start))
        for method in rule.methods or ("",):
            found.setdefault(method, rule)

    @property
    def unrestricted(self) -> Rule | None:
        """The rule that allows all requests, if there is one."""
        return self.prefixes.get("", {}).get("")

    @property
    def first(self) -> Rule:
        """A rule, of which there is always one: that for all requests, if possible."""
        every = chain(
            self.prefixes.values(), self.exact.values(), *(each.values() for each in self.wild.values())
        )
        return self.unrestricted or next(rule for rules in every for rule in rules.values())

    def find(self, method: str, path: str) -> Rule | None:
        """Return a rule that allows a method for a path."""
        for rules in self._matching(path):
            if rule := rules.get("") or rules.get(method):
                return rule
        return None

    def any_path(self, method: str) -> Rule | None:
        """Return a rule that allows a method for all paths."""
        rules = self.prefixes.get("", {})
        return rules.get("") or rules.get(method)

    def _matching(self, path: str) -> Iterator[_Methods]:
        if path in self.exact:
            yield self.exact[path]
        for length in self.lengths:
            if length <= len(path) and (rules := self.prefixes.get(path[:length])):
                yield rules
        segments = path.split("/") if self.wild else []
        for shape, paths in self.wild.items():
            if rules := paths.get(shape.fitted(segments)):
                yield rules


class _Shape(NamedTuple):
    """What patterns with segments `*` have in common: length, places of these, whether more may follow."""

    length: int
    stars: tuple[int, ...]
    rest: bool

    def fitted(self, segments: Sequence[str]) -> str:
        """Return the pattern of this shape that would match the segments of a path; "" if none does."""
        if len(segments) <= self.length if self.rest else len(segments) != self.length:
            return ""
        fitted = list(segments[: self.length])
        for star in self.stars:
            if not is_plain(fitted[star]):
                return ""
            fitted[star] = "*"
        return "/".join(fitted)


class RuleIndex:
    """Rules by name, by range and by port."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules: dict[_Key, dict[int | None, RequestRules]] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}  # of prefixes, by version
        for rule in rules:
            ports = self._rules.setdefault(self._key(rule), {})
            ports.setdefault(rule.port, RequestRules()).add(rule)

    def _key(self, rule: Rule) -> _Key:
        if isinstance(rule.target, str):
            return rule.target
        self._lengths[rule.target.version].add(rule.target.prefixlen)
        return rule.target.version, rule.target.prefixlen, int(rule.target.network_address)

    def of_name(self, name: str, port: int) -> tuple[list[RequestRules], bool]:
        """Return the rules for a name and a port, and whether there are any for the name."""
        parents = (name[place:] for place, char in enumerate(name) if char == ".")
        return self._at((name, *parents), port)

    def of_address(self, address: Address, port: int) -> tuple[list[RequestRules], bool]:
        """Return the rules for an address and a port, and whether there are any for the address."""
        number, bits = int(address), address.max_prefixlen
        lengths = self._lengths[address.version]
        keys = ((address.version, length, number >> bits - length << bits - length) for length in lengths)
        return self._at(keys, port)

    def _at(self, keys: Iterable[_Key], port: int) -> tuple[list[RequestRules], bool]:
        found = [ports for key in keys if (ports := self._rules.get(key))]
        return [ports[each] for ports in found for each in (None, port) if each in ports], bool(found)


def find_request_rule(rules: Sequence[RequestRules], method: str, target: str) -> Rule | None:
    """Return a rule that allows a request. Raises ValueError if that depends on a path that is invalid."""
    for each in rules:
        if rule := each.any_path(method):
            return rule
    path = canonical_path(target)
    return next((rule for each in rules if (rule := each.find(method, path))), None)
