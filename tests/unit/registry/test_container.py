"""What `docker port` prints, read: several lines, IPv6, and odd output."""

from __future__ import annotations

import pytest

from bot_bottle.errors import EngineError
from bot_bottle.registry.container import parse_port


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("127.0.0.1:49153\n", 49153),
        ("5000/tcp -> 127.0.0.1:49153", 49153),
        ("[::1]:49154\n127.0.0.1:49153\n", 49153),
        ("WARNING: something\n127.0.0.1:49153", 49153),
        ("", None),
        ("nothing to see", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:99999", None),
        ("[::1]:49154", None),
    ],
)
def test_the_port_on_loopback_is_found(text: str, port: int | None) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize("text", ["0.0.0.0:49153", "[::]:49153", "0.0.0.0:1\n:::1"])
def test_a_port_beyond_loopback_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="beyond loopback"):
        parse_port(text)
