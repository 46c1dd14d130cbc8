"""The summary of a bottle's connections by host."""

from __future__ import annotations

import json
from pathlib import Path

from bot_bottle.network.audit_log import Log, Request, read
from bot_bottle.network.traffic import MOST, summarize


def test_connections_are_counted_in_all_and_by_host_and_port(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        log.write(Request("api.example.org", 443, "allowed", up=100, down=1000))
        log.write(Request("api.example.org", 443, "failed", "connection refused", up=1))
        log.write(Request("api.example.org", 443, "refused", "it is not allowed", method="POST", path="/"))
        log.write(Request("api.example.org", 80, "allowed", up=7, down=9, cached=True))
        log.changed("evil.example.net")
        for _ in range(3):
            log.refused("evil.example.net", 443, "it is not allowed")
    assert summarize(read(tmp_path / "log")) == {
        "requests": 7,
        "refused": 4,
        "bytes_up": 108,
        "bytes_down": 1009,
        "bytes_cached": 9,
        "hosts": [
            {"host": "api.example.org", "port": 443, "requests": 3, "refused": 1, "up": 101, "down": 1000},
            {"host": "api.example.org", "port": 80, "requests": 1, "refused": 0, "up": 7, "down": 9},
            {"host": "evil.example.net", "port": 443, "requests": 3, "refused": 3, "up": 0, "down": 0},
        ],
        "more_hosts": 0,
    }


def test_nothing_is_nothing() -> None:
    sums = dict.fromkeys(("requests", "refused", "bytes_up", "bytes_down", "bytes_cached", "more_hosts"), 0)
    assert summarize([]) == {**sums, "hosts": []}


def test_many_hosts_do_not_hide_the_one_that_got_data() -> None:
    many = [{"host": f"{number}.example.net", "port": 443, "reason": "x"} for number in range(5000)]
    sent = {"host": "z.example.org", "port": 443, "verdict": "allowed", "up": 1}
    found = summarize([*many, sent])
    assert (found["requests"], found["refused"]) == (5001, 5000)
    assert found["hosts"][0]["host"] == "z.example.org"
    assert (len(found["hosts"]), found["more_hosts"]) == (MOST, 5001 - MOST)
    assert len(json.dumps(found)) < 100_000


def test_what_is_not_a_connection_is_left_out_of_the_counts() -> None:
    entries: list[dict[str, object]] = [
        {},
        {"host": 1, "port": 1},
        {"host": "a", "port": None},
        {"host": "a", "port": True},
        {"host": "a", "port": 1, "verdict": "allowed", "up": "many", "down": -5},
    ]
    found = summarize(entries)
    assert (found["requests"], found["bytes_up"], found["bytes_down"]) == (1, 0, 0)
