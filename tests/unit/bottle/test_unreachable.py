"""A line says that a host of a bottle's credentials cannot be reached: once, and not for what went right."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.bottle import wait_until

from bot_bottle.bottle import unreachable
from bot_bottle.bottle.unreachable import unreachable_told
from bot_bottle.network.audit_log import Log, Request
from bot_bottle.structs import replace

HOST, OTHER = "api.example.org", "auth.example.org"
FAILED = Request(HOST, 443, "failed", "Name or service not known")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([FAILED], True),
        ([Request(OTHER, 443, "allowed"), FAILED, FAILED], True),
        ([FAILED, Request(HOST, 443, "allowed", method="POST")], False),
        ([Request("example.net", 443, "failed", "no route")], False),
        ([Request(HOST, 443, "failed", "the client has gone", method="POST")], False),
        ([Request(HOST, 443, "failed", "TLS with the bottle: unknown CA")], False),
        ([Request(HOST, 443, "refused", "not allowed")], False),
        ([], False),
    ],
)
def test_what_was_never_reached_is_said_at_the_end(
    tmp_path: Path, written: list[Request], says: bool
) -> None:
    said: list[str] = []
    with unreachable_told(tmp_path / "log", {HOST, OTHER}, said.append), Log(tmp_path / "log") as log:
        for each in written:
            log.write(each)
    assert len(said) == says
    if says:
        assert "api.example.org:443 cannot be reached from this machine: Name or service not known" in said[0]


def test_what_lasts_is_said_once_while_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreachable, "_POLL", 0.01)
    said: list[str] = []
    with Log(tmp_path / "log") as log, unreachable_told(tmp_path / "log", {HOST}, said.append):
        for _ in range(2):
            log.write(replace(FAILED, reason="no answer within 20 s", seconds=20.0))
            wait_until(lambda: bool(said))
    assert len(said) == 1
