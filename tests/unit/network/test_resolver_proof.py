"""The proof that a microVM's resolver refuses: smolvm has to list that it did, whatever the probes say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import cast

import pytest

from bot_bottle.backend.microvm import probes as proving
from bot_bottle.host.process import Completed
from bot_bottle.network.policy import parse_policy
from bot_bottle.network.smolvm_policy import ASKING, REFUSED_NAME
from bot_bottle.vm.host import Host

POLICY = parse_policy(["192.0.9.1"])
CLOSED = ("ipv4", "gateway", "lan", "metadata", "denied")
PROXIED = ("host-canary", "proxied-host", "proxied-address", "proxied-loopback", "proxied-metadata")
OTHERS = ("ipv6", "udp-443", "icmp", "host-loopback")


class Slow:
    """A host whose guest is too slow for its first `silent` tries, and whose smolvm lists what was asked.

    One that `lists` nothing answers all names.
    """

    kind = "kvm"

    def __init__(self, silent: int, *, lists: bool = True) -> None:
        self.silent = silent
        self.lists = lists
        self.tries: list[str] = []
        self.listed: list[str] = []
        self.looks = 0

    def call(self, args: Sequence[str], **_: object) -> Completed:
        if "egress-events" in args:
            self.looks += 1
            events = [{"operation": "dns", "dest": name} for name in self.listed if self.lists]
            return Completed(("smolvm",), 0, json.dumps(events).encode(), b"")
        [name] = {found[0] for found in re.finditer(rf"[0-9a-f]{{8}}\.{re.escape(REFUSED_NAME)}", args[-1])}
        self.tries.append(name)
        asked = len(self.tries) > self.silent
        if asked:
            self.listed.append(name)
        outcomes = {**dict.fromkeys(CLOSED, "refused"), **dict.fromkeys(OTHERS, "silent"), "control": "open"}
        outcomes |= {**dict.fromkeys(PROXIED, "refused"), "interceptor": "open"}
        outcomes |= dict.fromkeys(ASKING, "refused" if asked else "silent")
        return Completed(("smolvm",), 0, "".join(f"{k} {v}\n" for k, v in outcomes.items()).encode(), b"")


def prove(host: Slow, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    monkeypatch.setattr(proving, "_LISTED", {"kvm": 0.05})
    monkeypatch.setattr(proving, "PAUSE", {"kvm": 0.02})
    proof = proving.prove("bottle-x", POLICY, cast(Host, host), published=False)
    assert all(ok for name, (_, ok) in proof.results.items() if name != "resolver")
    return proof.results["resolver"]


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_guest_that_was_too_slow_to_ask_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, silent: int
) -> None:
    host = Slow(silent)
    assert prove(host, monkeypatch) == ("refused", True)
    assert len(set(host.tries)) == silent + 1  # a new name each time
    assert host.looks == silent + 1  # nothing is waited for that nobody asked


@pytest.mark.parametrize(("silent", "lists"), [(9, True), (0, False)], ids=["never asks", "lists nothing"])
def test_what_smolvm_does_not_list_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, silent: int, lists: bool
) -> None:
    host = Slow(silent, lists=lists)
    assert prove(host, monkeypatch) == ("silent", False)
    assert len(host.tries) == 3
