"""`bottle logs --egress` and `bottle show`: what a bottle reached and was refused, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from bot_bottle.bottle import records
from bot_bottle.bottle.names import lock_name
from bot_bottle.cli import main
from bot_bottle.host.progress import Progress
from bot_bottle.network.audit_log import Log, Request

WHEN = "2026-01-02T03:04:05Z"
ENTRIES = (
    Request("evil.example.net", 443, "refused", "it is not allowed", when=WHEN),
    Request("api.example.org", 443, "allowed", rule="api.example.org", up=1200, down=40_000, when=WHEN),
    Request("git.example.org", 443, "refused", "POST is not allowed", method="POST", path="/x", when=WHEN),
    Request(
        "git.example.org", 443, "allowed", method="GET", path="/a\x1b[2J", down=3, seconds=1.26, when=WHEN
    ),
    Request("down.example.org", 443, "failed", "no answer", when=WHEN),
    Request("name.example.net", 0, "refused", "it is not allowed", when=WHEN),
)


@pytest.fixture(autouse=True)
def _run() -> None:
    with records.recorded("blue", Progress()) as record, Log(record.log) as log:
        for entry in ENTRIES:
            log.write(entry)
        log.changed("files.example.net")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main.run([*arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_refused_connections_are_printed_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "logs", "--egress", "blue")
    assert lines[:4] == [
        f"{WHEN}  evil.example.net:443  it is not allowed",
        f"{WHEN}  git.example.org:443  POST /x  POST is not allowed",
        f"{WHEN}  down.example.org:443  no answer  0 B up, 0 B down, 0.0 s",
        f"{WHEN}  name.example.net  it is not allowed",
    ]
    assert lines[4].endswith("  files.example.net  allowed from now on")
    assert len(lines) == 5


def test_with_all_the_allowed_ones_are_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "logs", "--egress", "--all", "blue")
    assert lines[:4] == [
        f"{WHEN}  refused  evil.example.net:443  it is not allowed",
        f"{WHEN}  allowed  api.example.org:443  1.2 kB up, 40.0 kB down, 0.0 s",
        f"{WHEN}  refused  git.example.org:443  POST /x  POST is not allowed",
        f"{WHEN}  allowed  git.example.org:443  GET /a\\x1b[2J  0 B up, 3 B down, 1.3 s",
    ]
    assert lines[4].startswith(f"{WHEN}  failed   down.example.org:443")
    assert "  changed  files.example.net" in lines[6]


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    refused = [json.loads(line) for line in printed(capsys, "logs", "--egress", "--json", "blue")]
    assert [each["verdict"] for each in refused] == ["refused", "refused", "failed", "refused", "changed"]
    lines = printed(capsys, "logs", "--egress", "--all", "--json", "blue")
    assert all(line.isascii() and line.isprintable() for line in lines)
    everything = [json.loads(line) for line in lines]
    assert len(everything) == 7
    assert (everything[1]["up"], everything[1]["rule"]) == (1200, "api.example.org")


@pytest.mark.parametrize("option", ["--all", "--json"])
def test_its_options_need_it(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main.run(["logs", option, "blue"]) == 2
    assert f"{option} needs --egress" in capsys.readouterr().err


def test_show_has_a_summary_by_host(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split(maxsplit=1) for line in printed(capsys, "show", "blue")]
    assert [row[1] for row in rows if row[0].startswith("egress")] == [
        "6 requests, 3 refused, 1.2 kB up, 40.0 kB down",
        "api.example.org:443  1 request, 0 refused, 1.2 kB up, 40.0 kB down",
        "git.example.org:443  2 requests, 1 refused, 0 B up, 3 B down",
        "down.example.org:443  1 request, 0 refused, 0 B up, 0 B down",
        "evil.example.net:443  1 request, 1 refused, 0 B up, 0 B down",
        "name.example.net  1 request, 1 refused, 0 B up, 0 B down",
    ]
    found = json.loads("\n".join(printed(capsys, "inspect", "--json", "blue")))["egress"]
    assert (found["requests"], found["refused"], len(found["hosts"])) == (6, 3, 5)


def test_show_lists_some_hosts_only_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with records.recorded("many", Progress()) as record, Log(record.log) as log:
        for number in range(130):
            log.refused(f"{number}.example.net", 443, "it is not allowed")
    lines = printed(capsys, "show", "many")
    assert len([line for line in lines if line.startswith("egress")]) == 1 + 20 + 1
    assert any("and 110 others" in line for line in lines)


def test_a_run_without_a_network_has_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with records.recorded("alone", Progress()):
        pass
    assert json.loads("\n".join(printed(capsys, "show", "--json", "alone")))["egress"] is None
    assert printed(capsys, "logs", "--egress", "--all", "alone") == []


def test_a_run_that_lasts_is_summarized_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    with records.recorded("long", Progress()) as record, Log(record.log) as log:
        log.refused("evil.example.net", 443, "it is not allowed")
        shown = json.loads("\n".join(printed(capsys, "show", "--json", "long")))
        assert shown["egress"]["refused"] == 1
        log.refused("evil.example.net", 443, "it is not allowed")
    assert (records.newest("long").egress or {})["refused"] == 2


def test_a_killed_run_is_summarized_when_it_is_settled() -> None:
    with records.recorded("dead", Progress()) as record, Log(record.log) as log:
        log.refused("evil.example.net", 443, "it is not allowed")
    record.ended, record.egress = None, None
    record.save()
    records.settle("dead", Progress())
    assert (records.newest("dead").egress or {})["refused"] == 1


def test_a_bottle_that_asks_nobody_is_not_answered_for(capsys: pytest.CaptureFixture[str]) -> None:
    with lock_name("alone"), records.recorded("alone", Progress()) as record:
        record.plan, record.proof = {"ask": False}, {"ipv4": {"ok": True}}
        record.save()
        assert main.run(["allow", "--ask", "alone"]) == 101
        assert "started without --ask" in capsys.readouterr().err
    assert main.run(["allow", "--ask", "alone"]) == 101
    assert "not running" in capsys.readouterr().err
    assert main.run(["allow", "--ask", "alone", "a.example.org"]) == 2
