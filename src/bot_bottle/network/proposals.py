"""The entries that a bottle would have needed, from the log of a run: what `bottle learn` proposes.

A bottle decides what it tries to reach, so what is proposed is for the user to judge: private addresses are
never proposed, and of many hosts some only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import NOTHING, Policy, parse_policy
from bot_bottle.network.presets import preset_names
from bot_bottle.network.questions import ASKED
from bot_bottle.network.rules import address_of, parse
from bot_bottle.structs import replace

MOST = 100  # entries that are proposed
_PATHS = 8  # of one host and port, that are proposed one by one
_USUAL = (443, 80)  # the ports that a name is asked for where only its look-up was refused

# names that no entry makes reachable (RFC 6761), by their last label
_SPECIAL = {
    "bottle": "it is a service of bottle itself",
    "invalid": "there is no such host",
    "localhost": "it is the bottle's own loopback",
}


def entry_for(host: str, port: int) -> str:
    """Return the entry for a host (a name, or an address without brackets) and a port, 0 for all ports."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Need(Struct, frozen=True):
    """What was refused: a host, a port (0: any), and where requests were read a method and a path."""

    host: str
    port: int
    method: str = ""
    path: str = ""

    @property
    def place(self) -> str:
        """The host and port, as an entry has them."""
        return entry_for(self.host, self.port)


class Proposal(Struct, frozen=True):
    """An entry of `egress.allow`, and what it would have allowed."""

    entry: str
    covers: tuple[str, ...]


class Proposals(Struct, frozen=True):
    """The entries that would have been needed, and for what none is proposed, with the reason."""

    entries: tuple[Proposal, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


def propose(entries: Iterable[Mapping[str, Any]], policy: Policy) -> Proposals:
    """Return what would have allowed what was refused in a run, or was allowed during it.

    `entries` are its log, `policy` what was allowed from the beginning.
    """
    needs: dict[Need, None] = {}
    added: dict[str, None] = {}
    others: dict[str, str] = {}
    for entry in entries:
        if entry.get("verdict") == "changed":
            _follow_change(str(entry.get("host")), str(entry.get("reason")), added)
        elif (need := _need(entry, policy)) is None or need in needs:
            continue
        elif reason := _obstacle(need) or (str(entry.get("reason")) if _allows(policy, need) else ""):
            others.setdefault(need.place, reason)
        else:
            needs[need] = None
    found = [*(Proposal(rule, (rule,)) for rule in added), *_with_presets(list(needs), parse_policy(added))]
    for proposal in found[MOST:]:
        others.setdefault(proposal.covers[0], f"only {MOST} entries are proposed")
    return Proposals(tuple(found[:MOST]), tuple(others.items()))


def _follow_change(rule: str, reason: str, added: dict[str, None]) -> None:
    """Note a rule that was added during the run, or forget one that was removed again."""
    with suppress(SpecError):
        if reason.startswith("allowed"):
            added[str(parse(rule))] = None
        else:
            added.pop(str(parse(rule)), None)


def _need(entry: Mapping[str, Any], policy: Policy) -> Need | None:
    """Return what a line of the log says was refused, or allowed because the user was asked.

    It has a method and a path only where `policy` allows other requests of the host.
    """
    host, port, verdict = entry.get("host"), entry.get("port"), entry.get("verdict", "refused")
    if not isinstance(host, str) or type(port) is not int:
        return None
    if verdict != "refused" and entry.get("rule") != ASKED:
        return None
    need = Need(host.lower().removesuffix(".").strip("[]"), port)
    if verdict == "refused" and policy.decide(need.host, port).allowed:
        return replace(need, method=str(entry.get("method") or ""), path=str(entry.get("path") or ""))
    return need


def _obstacle(need: Need) -> str:
    """Return why no entry is proposed; "" where one is."""
    try:
        rule = parse(need.place)
        address = address_of(need.host)
    except (SpecError, ValueError):
        return "it is not a valid host name"
    if address is not None:
        public = NOTHING.decide_resolved(str(address), need.port).allowed
        return "" if public else "it is a private address, which only you can add"
    last = str(rule.target).rpartition(".")[2]
    return _SPECIAL.get(last, "")


def _allows(policy: Policy, need: Need) -> bool:
    if need.method:
        return policy.decide_request(need.host, need.port, need.method, need.path).allowed
    ports = (need.port,) if need.port else _USUAL
    return any(policy.decide(need.host, port).allowed for port in ports)


def _with_presets(needs: Sequence[Need], added: Policy) -> list[Proposal]:
    """Return the presets that allow some of it, those that allow most first, and entries for the rest."""
    found = []
    rest = [need for need in needs if not _allows(added, need)]
    presets = {name: parse_policy([name]) for name in preset_names()} if rest else {}
    while presets:
        covered = {name: [need for need in rest if _allows(preset, need)] for name, preset in presets.items()}
        best = max(covered, key=lambda name: len(covered[name]))
        if not covered[best]:
            break
        found.append(Proposal(best, tuple(dict.fromkeys(need.place for need in covered[best]))))
        rest = [need for need in rest if need not in covered[best]]
        del presets[best]
    places: dict[str, list[Need]] = {}
    for need in rest:
        places.setdefault(need.place, []).append(need)
    return [*found, *(each for place in sorted(places) for each in _single(place, places[place]))]


def _single(place: str, needs: Sequence[Need]) -> list[Proposal]:
    """Return the entries for one host and port; for its requests, where it was they that were refused."""
    if not all(need.method for need in needs):
        return [Proposal(place, (place,))]
    methods: dict[str, set[str]] = {}
    for need in needs:
        methods.setdefault(need.path, set()).add(need.method)
    entries = [f"{place} {','.join(sorted(those))} {path}" for path, those in sorted(methods.items())]
    if len(entries) > _PATHS or any(
        "*" in path or not _is_valid(each) for path, each in zip(sorted(methods), entries, strict=True)
    ):
        entries = [f"{place} {','.join(sorted(set().union(*methods.values())))}"]
    return [Proposal(entry, (place,)) for entry in entries if _is_valid(entry)]


def _is_valid(entry: str) -> bool:
    with suppress(SpecError):
        return bool(parse(entry))
    return False
