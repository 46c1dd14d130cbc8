"""While a microVM runs: what smolvm refused is logged, its rules follow the policy, the proxy is watched."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.bottle import wait_until

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.microvm import watch
from bot_bottle.backend.microvm.network import Network
from bot_bottle.backend.microvm.probes import PAUSE
from bot_bottle.backend.microvm.watch import watched
from bot_bottle.errors import SmolvmError, WallsError
from bot_bottle.host import process
from bot_bottle.host.process import Completed
from bot_bottle.host.redact import Secret
from bot_bottle.network.audit_log import read
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import parse_policy, save_policy
from bot_bottle.network.proxy_process import ProxyProcess
from bot_bottle.vm.host import Host


def event(number: int) -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-01T00:00:{number:02}Z",
        "operation": "connect",
        "dest": f"9.9.9.9:{number}",
    }


class FakeHost:
    """A host whose smolvm has the newest events only, and is called by `watched`."""

    kind = "kvm"

    def __init__(self) -> None:
        self.events = [event(number) for number in range(3)]
        self.asked = threading.Event()
        self.updates: list[Sequence[str]] = []
        self.failures = 0

    def call(self, args: Sequence[str], **_: object) -> Completed:
        if "update" in args:
            if self.failures:
                self.failures -= 1
                raise SmolvmError("smolvm is busy")
            self.updates.append(args[args.index("--name") + 2 :])
            return Completed(("smolvm",), 0, b"", b"")
        assert "egress-events" in args
        self.asked.set()
        return Completed(("smolvm",), 0, json.dumps(self.events).encode(), b"")


@pytest.fixture
def record(tmp_path: Path) -> EgressFiles:
    return EgressFiles(tmp_path / "log", tmp_path / "policy")


@contextmanager
def watching(host: FakeHost, record: EgressFiles, network: Network = Network()) -> Iterator[None]:  # noqa: B008
    policy = parse_policy(["api.example.org"])
    save_policy(policy, record.policy)
    launch = cast(BottleConfig, SimpleNamespace(name="bottle-x", egress=policy))
    with watched(launch, cast(Host, host), network, record):
        yield


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAUSE, "kvm", 0.01)
    monkeypatch.setattr(watch, "_TICK", 0.01)


def test_each_refusal_is_written_once_and_those_of_the_probes_are_not(record: EgressFiles) -> None:
    host = FakeHost()
    with watching(host, record):
        host.events = [event(number) for number in range(1, 6)]
        host.asked.clear()
        assert host.asked.wait(5)
        host.events = [*(event(number) for number in range(4, 7)), {"dest": "evil.example.net"}, {"dest": 3}]
    found: list[Mapping[str, Any]] = list(read(record.log))
    assert [(entry["host"], entry["port"]) for entry in found] == [
        *(("9.9.9.9", number) for number in (3, 4, 5, 6)),
        ("evil.example.net", 0),
        ("3", 0),
    ]
    assert found[0]["time"] == "2026-01-01T00:00:03Z"


def test_smolvms_rules_follow_the_policy(record: EgressFiles) -> None:
    host = FakeHost()
    host.failures = 1  # it is tried again
    with watching(host, record):
        save_policy(parse_policy(["api.example.org:443", "*.example.net", "9.9.9.0/24"]), record.policy)
        wait_until(lambda: host.updates)
        save_policy(parse_policy(["*.example.net GET"]), record.policy)
        wait_until(lambda: len(host.updates) > 2)
    added = ("--allow-host-pattern", "api.example.org", "--allow-host-pattern", "*.example.net")
    assert host.updates == [
        (*added, "--allow-cidr", "9.9.9.0/24"),
        ("--allow-host-pattern", "*.example.net"),
        ("--remove-allow-host", "api.example.org", "--remove-allow-cidr", "9.9.9.0/24"),
    ]


def test_the_port_of_a_proxy_that_has_ended_stays_ours(record: EgressFiles, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("it was killed\n")
    with socket.create_server(("127.0.0.1", 0)) as listener, process.background(["sleep", "60"]) as child:
        proxy = ProxyProcess(tmp_path, child, tmp_path / "words", record.log)
        network = Network("127.0.0.1:1", Secret("t" * 64), proxy, listener=listener)
        address = listener.getsockname()
        with watching(FakeHost(), record, network):
            network.check()
            socket.create_connection(address).close()
            child.send(signal.SIGKILL)
            wait_until(lambda: network.ended)
            with socket.create_connection(address, 10) as plug, suppress(ConnectionResetError):
                assert plug.recv(1) == b""
            with pytest.raises(OSError, match="in use"):
                socket.create_server(address)
        with pytest.raises(WallsError, match="proxy has exited") as caught:
            network.check()
    assert caught.value.why == "it was killed"
