"""What a bottle's proxy needs before it is started."""

from __future__ import annotations

import sys

import pytest

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import parse_policy
from bot_bottle.network.proxy_process import check_reading


@pytest.mark.parametrize(
    ("entry", "credentials"), [("a.example.org GET", False), ("a.example.org", True)], ids=["rule", "secret"]
)
def test_only_requests_that_must_be_read_need_mitmproxy(
    entry: str, credentials: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mitmproxy", raising=False)
    monkeypatch.setattr(sys, "path", [])
    check_reading(parse_policy(["a.example.org"]), credentials=False)
    with pytest.raises(SpecError, match="needs mitmproxy, which is not installed") as raised:
        check_reading(parse_policy([entry]), credentials=credentials)
    assert "pip install 'bot-bottle[egress]'" in raised.value.next_step
