"""The log of connections and requests: what is written, bounded, masked and read again."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from bot_bottle.network import audit_log
from bot_bottle.network.audit_log import Log, Request, clear, is_refusal, read


def test_an_entry_has_what_is_known_of_the_request(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        log.write(
            Request(
                "api.example.org",
                443,
                "allowed",
                rule="api.example.org GET /v1/*",
                method="GET",
                path="/v1/models?key=secret",
                up=120,
                down=4096,
                seconds=0.12345,
                when="2026-01-02T03:04:05Z",
            )
        )
    assert (tmp_path / "log").read_bytes().count(b"\n") == 1
    assert list(read(tmp_path / "log")) == [
        {
            "time": "2026-01-02T03:04:05Z",
            "host": "api.example.org",
            "port": 443,
            "verdict": "allowed",
            "reason": "",
            "rule": "api.example.org GET /v1/*",
            "method": "GET",
            "path": "/v1/models",
            "up": 120,
            "down": 4096,
            "seconds": 0.123,
        }
    ]


def test_refusals_and_changes_are_entries_too(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        log.refused("evil.example.net", 443, "it is not allowed", when="2026-01-02T03:04:05Z")
        log.changed("files.example.net")
        log.write(Request("files.example.net", 443, "allowed"))
    refused, changed, allowed = read(tmp_path / "log")
    assert (refused["verdict"], refused["host"], refused["reason"]) == (
        "refused",
        "evil.example.net",
        "it is not allowed",
    )
    assert (changed["verdict"], changed["host"], changed["port"]) == ("changed", "files.example.net", None)
    assert [*map(is_refusal, (refused, changed, allowed))] == [True, True, False]


def test_an_entry_of_an_earlier_version_is_a_refusal() -> None:
    assert is_refusal({"time": "", "host": "evil.example.net", "port": 443, "reason": "it is not allowed"})


def test_only_its_owner_reads_a_log_and_a_link_is_not_followed(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        log.refused("evil.example.net", 443, "it is not allowed")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        Log(tmp_path / "link")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("field", ["host", "reason", "rule", "method", "path"])
def test_a_field_is_bounded_and_has_no_control_characters(tmp_path: Path, field: str) -> None:
    text = "\x1b[2J\n\u202e\x7f" + "a" * 100_000
    with Log(tmp_path / "log") as log:
        log.write(Request(**{"host": "h", "port": 1, "verdict": "refused", field: text}))  # type: ignore[arg-type]
    raw = (tmp_path / "log").read_bytes()
    assert raw.isascii()
    assert all(32 <= byte < 127 for byte in raw.removesuffix(b"\n"))
    assert len(raw) < 2000
    assert next(read(tmp_path / "log"))[field].startswith("\x1b[2J\n\u202e")


def test_the_log_stops_growing_and_goes_on_when_it_was_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "LARGEST", 2000)
    with Log(tmp_path / "log") as log:
        for number in range(1000):
            log.refused("evil.example.net", number, "it is not allowed")
        assert 1500 < (tmp_path / "log").stat().st_size <= 2000
        clear(tmp_path / "log")
        log.refused("other.example.net", 443, "it is not allowed")
    assert [entry["host"] for entry in read(tmp_path / "log")] == ["other.example.net"]


def test_a_secret_is_masked_in_every_field(tmp_path: Path) -> None:
    value = "Gh/s3cret+key"
    with Log(tmp_path / "log", hidden=[value]) as log:
        log.write(Request("gh%2fs3cret%2bkey.evil.example.net", 443, "refused", f"it has {value}"))
        log.write(Request("a.example.net", 443, "allowed", method="GET", path=f"/t/{value}/x?{value}"))
        log.write(Request("a.example.net", 443, "allowed", method="GET", path="/%47h%2Fs3cret%2Bkey"))
        log.write(Request("a.example.net", 443, "allowed", method="GET", path="/" + "a" * 995 + value))
        log.write(Request("a.example.net", 443, "allowed", method=value, path="/a%20b", rule=value))
    first, second, third, fourth, last = read(tmp_path / "log")
    assert (first["host"], first["reason"]) == ("***.evil.example.net", "it has ***")
    assert (second["path"], third["path"], last["path"]) == ("/t/***/x", "/***", "/a%20b")
    assert fourth["path"] == "/" + "a" * 995 + "***"
    assert (last["method"], last["rule"]) == ("***", "***")


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [b"{", b"[1]", b"\xff", b"", b"[" * 100_000, b'{"host": "a"}', b'{"host": "b"']
    path.write_bytes(b"\n".join(lines))
    assert list(read(path)) == [{"host": "a"}]


def test_a_line_without_an_end_is_not_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        os.truncate(file.fileno(), 32 << 20)
    tracemalloc.start()
    try:
        assert list(read(tmp_path / "log")) == []
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_what_is_added_while_it_lasts_is_read(tmp_path: Path) -> None:
    path, left = tmp_path / "log", [True, True, True, False]

    def lasts() -> bool:
        with path.open("a") as file:
            file.write(json.dumps({"port": len(left)}) + "\n")
        return left.pop(0)

    assert [entry["port"] for entry in read(path, lasts)] == [4, 3, 2, 1]


def test_a_log_that_is_cleared_while_it_is_read_is_read_from_its_new_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    texts = ['{"port": 1}\n{"half', "", '{"port": 2}\n']

    def lasts() -> bool:
        if texts:
            path.write_text(texts.pop(0))
            return True
        return False

    path.touch()
    assert [entry["port"] for entry in read(path, lasts)] == [1, 2]
