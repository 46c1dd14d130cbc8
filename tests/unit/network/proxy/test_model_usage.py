"""Tokens are read from the answers of each vendor, whole or in single bytes, and from no hostile one."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from bot_bottle.network.proxy.model_usage import LARGEST, AnswerReader

STREAM, JSON = "text/event-stream; charset=utf-8", "application/json"


def events(*documents: Any) -> bytes:
    return b"".join(b"event: x\ndata: %s\n\n" % json.dumps(each).encode() for each in documents)


CACHED = {"input_tokens": 10, "cache_creation_input_tokens": 200, "cache_read_input_tokens": 3000}
CLAUDE = [
    {"type": "message_start", "message": {"usage": {**CACHED, "output_tokens": 1}, "content": []}},
    {
        "type": "content_block_delta",
        "delta": {"type": "text_delta", "text": '{"usage": {"input_tokens": 9}}'},
    },
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 40}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 55}},
    {"type": "message_stop"},
]
RESPONSES = [
    {"type": "response.created", "response": {"id": "r", "usage": None}},
    {
        "type": "response.completed",
        "response": {"usage": {"input_tokens": 90, "input_tokens_details": {"cached_tokens": 80},
                               "output_tokens": 7, "total_tokens": 97}},
    },
]  # fmt: skip
CHAT = [
    {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "hi"}}], "usage": None},
    {
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4},
    },
]
GEMINI = [
    {"candidates": [], "usageMetadata": {"promptTokenCount": 50, "candidatesTokenCount": 1}},
    {
        "candidates": [],
        "usageMetadata": {"promptTokenCount": 50, "candidatesTokenCount": 8, "thoughtsTokenCount": 20,
                          "totalTokenCount": 78},
    },
]  # fmt: skip
ANSWERS: dict[str, tuple[str, bytes, tuple[int, int]]] = {
    "claude-stream": (STREAM, events(*CLAUDE), (3210, 55)),
    "claude": (
        JSON,
        json.dumps({"type": "message", "usage": {**CACHED, "output_tokens": 5}}).encode(),
        (3210, 5),
    ),
    "responses-stream": (STREAM, events(*RESPONSES), (90, 7)),
    "responses": (JSON, json.dumps(RESPONSES[1]["response"]).encode(), (90, 7)),
    "chat-stream": (STREAM, events(*CHAT) + b"data: [DONE]\n\n", (30, 4)),
    "chat": (JSON, json.dumps(CHAT[1], indent=1).encode(), (30, 4)),
    "gemini-stream": (STREAM, events(*GEMINI).replace(b"\n", b"\r\n"), (50, 28)),
    "gemini-array": (JSON, json.dumps(GEMINI, indent=1).encode(), (50, 28)),
    "code-assist": (STREAM, events(*({"response": each} for each in GEMINI)), (50, 28)),
    "no-end": (STREAM, events(*RESPONSES).rstrip(), (90, 7)),
    "lines": (STREAM, b'data: {"usage":\ndata: {"prompt_tokens": 3}}\n\n', (3, 0)),
}


def read(kind: str, data: bytes, coding: str = "", step: int = 1 << 20) -> AnswerReader:
    reader = AnswerReader(kind, coding)
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    reader.end()
    return reader


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_tokens_of_each_vendor_are_read(name: str, step: int, coding: str) -> None:
    kind, data, counts = ANSWERS[name]
    sent = gzip.compress(data) if coding == "gzip" else zlib.compress(data) if coding else data
    found = read(kind, sent, coding, step)
    assert (found.tokens.input, found.tokens.output) == counts
    assert found.tokens.complete
    assert found.size == len(data)


def test_a_stream_that_is_broken_off_has_what_came_first() -> None:
    found = read(STREAM, events(*CLAUDE[:2]))
    assert (found.tokens.input, found.tokens.output, found.tokens.complete) == (3210, 1, False)


@pytest.mark.parametrize(
    ("kind", "data", "coding"),
    [
        pytest.param(STREAM, b'data: {"usage": \n\ndata: "usage"\n\n', "", id="no-json"),
        pytest.param(STREAM, b"data: " + b"[" * 100_000 + b'"usage"\n\n', "", id="deep"),
        pytest.param(STREAM, b'data: {"usage": {"input_tokens": ' + b"9" * 9000 + b"}}\n\n", "", id="digits"),
        pytest.param(
            STREAM, b'data: {"usage": {"input_tokens": -5, "output_tokens": true}}\n\n', "", id="odd"
        ),
        pytest.param(
            STREAM, b'data: {"usage": [1], "message": 2, "response": "x"}\n\n', "", id="other-types"
        ),
        pytest.param(JSON, b"\xff\xfe\0", "", id="not-text"),
        pytest.param(JSON, b'{"usage": {"input_tokens": 7}}' + b" " * LARGEST, "", id="too-large"),
        pytest.param(JSON, b'{"usage": {"input_tokens": 7}}', "gzip", id="not-gzip"),
        pytest.param(JSON, b'{"usage": {"input_tokens": 7}}', "br", id="unknown-coding"),
        pytest.param("text/html", b'{"usage": {"input_tokens": 7}}', "", id="another-type"),
    ],
)
def test_what_cannot_be_read_reports_nothing(kind: str, data: bytes, coding: str) -> None:
    found = read(kind, data, coding, 1 << 16)
    assert (found.tokens.input, found.tokens.output) == (0, 0)


def test_an_event_that_is_too_large_is_left_out_and_the_next_is_read() -> None:
    endless = b'data: {"usage": {"input_tokens": 7}, "x": "' + b"x" * (LARGEST + 5)
    many = (b"data: " + b"x" * 1000 + b"\n") * (LARGEST // 1000)
    for large in (endless, many):
        found = read(STREAM, large + b'"}\n\n' + events(*CHAT), "", 1 << 16)
        assert (found.tokens.input, found.tokens.output) == (30, 4)


def test_a_bomb_takes_no_memory_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot_bottle.network.proxy.model_usage.MOST", 8 << 20)
    found = read(STREAM, gzip.compress(bytes(64 << 20)), "gzip")
    assert (found.tokens.input, found.size) == (0, 8 << 20)
