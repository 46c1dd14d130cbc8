"""The processes of bottles, one after the other, as a worker starts them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.bottle import wait_until

from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cluster.order import Order, Values
from bot_bottle.cluster.starter import BottleProcess, Starter
from bot_bottle.cluster.starter import starter as starter_for
from bot_bottle.engine.source import Source
from bot_bottle.secrets.reference import Reference
from bot_bottle.version import VERSION
from bot_bottle.workspace.bundle import Origin


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = Starter("docker", "auto")
    yield made
    made.close()


def order(*secrets: Reference) -> Order:
    spec = BottleSpec(source=Source(image="x"), slug="try-1", backend="docker", secrets=secrets)
    return Order("0", VERSION, spec, Origin("", "sha1", ""))


def report(process: BottleProcess) -> dict[str, object]:
    with process.channel.makefile("rb") as stream:
        found: dict[str, object] = json.loads(stream.read())
    return found


def test_one_process_starts_those_of_all_bottles(starter: Starter, tmp_path: Path) -> None:
    missing = order(Reference("KEY", "file", str(tmp_path / "missing")))
    pids = set()
    for _ in range(2):
        with starter.started(missing, Values({}, {}), tmp_path) as process:
            pids.add(process.pid)
            found = report(process)
            assert process.wait(60)
        assert (process.code, found["refused"]) == (0, True)
        assert str(tmp_path / "missing") in str(found["error"])
    assert len(pids) == 2
    assert starter.is_ready


def test_the_next_bottle_starts_where_one_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, asked = tmp_path / "begun", tmp_path / "asked"
    version = json.dumps({key: {"Version": "28.5.1"} for key in ("Client", "Server")})
    (tmp_path / "docker").write_text(
        f"#!/bin/sh\ncase $1 in\nversion|info) echo $1 >> {asked}; echo '{version}'; exit;;\nesac\n"
        f"touch {begun}\nexec sleep 1000\n"
    )
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    starter = Starter("docker", "auto")
    for signum, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0), (0, 0)):
        with starter.started(order(), Values({}, {}), tmp_path) as process:
            wait_until(begun.exists, 60)
            begun.unlink()
            assert process.code is None
            if signum:
                process.send(signum)
                assert process.wait(60)
        assert process.code == code
    assert starter.is_ready
    starter.close()
    assert asked.read_text().split() == ["version", "info"]  # once for all of them


def test_a_starter_that_was_killed_is_replaced(tmp_path: Path) -> None:
    missing = order(Reference("KEY", "file", str(tmp_path / "missing")))
    first = starter_for(missing.spec.backend, missing.spec.accel)
    assert starter_for(missing.spec.backend, missing.spec.accel) is first
    with first.started(missing, Values({}, {}), tmp_path) as process:
        parent = Path(f"/proc/{process.pid}/stat").read_text().split()[3]
        os.kill(int(parent), signal.SIGKILL)
        assert report(process)["refused"]
        assert not process.wait(60)
    second = starter_for(missing.spec.backend, missing.spec.accel)
    assert second is not first
    second.close()
