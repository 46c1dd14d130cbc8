"""What smolvm says it refused, in the bottle's own log."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.microvm import probes as proving
from bot_bottle.host.process import Completed
from bot_bottle.network.audit_log import read
from bot_bottle.network.policy import load_policy, parse_policy
from bot_bottle.network.proxy_process import EgressFiles
from bot_bottle.vm.host import Host


def event(number: int) -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-01T00:00:{number:02}Z",
        "operation": "connect",
        "dest": f"9.9.9.9:{number}",
    }


class Told:
    """A host whose smolvm keeps the newest events only."""

    kind = "kvm"

    def __init__(self) -> None:
        self.events = [event(number) for number in range(3)]
        self.asked = threading.Event()

    def call(self, args: Sequence[str], **_: object) -> Completed:
        assert "egress-events" in args
        self.asked.set()
        return Completed(("smolvm",), 0, json.dumps(self.events).encode(), b"")


def test_each_refusal_is_written_once_and_those_of_the_probes_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "_PAUSE", {"kvm": 0.01})
    host, policy = Told(), parse_policy(["api.example.org"])
    record = EgressFiles(tmp_path / "log", tmp_path / "policy")
    launch = cast(BottleConfig, SimpleNamespace(name="bottle-x", egress=policy))
    with proving.record_denials(launch, cast(Host, host), record):
        assert load_policy(record.policy) == policy
        host.events = [event(number) for number in range(1, 6)]
        host.asked.clear()
        assert host.asked.wait(5)
        host.events = [*(event(number) for number in range(4, 7)), {"dest": "evil.example.net"}, {"dest": 3}]
    assert not record.policy.exists()
    found: list[Mapping[str, Any]] = list(read(record.log))
    assert [(entry["host"], entry["port"]) for entry in found] == [
        *(("9.9.9.9", number) for number in (3, 4, 5, 6)),
        ("evil.example.net", 0),
        ("3", 0),
    ]
    assert found[0]["time"] == "2026-01-01T00:00:03Z"
