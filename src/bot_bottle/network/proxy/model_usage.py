"""Reads the tokens that models report in their answers, which arrive in parts, compressed or not.

Sources: the vendors' API references. Anthropic, "Messages" and "Streaming": `usage` of a message, in a
stream first in `message_start` and then, cumulative, in `message_delta`. OpenAI, "Responses"
(`response.completed`) and "Chat completions" (`usage` of the last chunk). Google, "GenerateContentResponse":
`usageMetadata`, in each part of a stream. Streams are server-sent events (HTML, 9.2.6), at Google also parts
of one JSON array.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

LARGEST = 4 << 20  # bytes of one event, or of an answer other than a stream
MOST = 256 << 20  # bytes of an answer that are decompressed
_PIECE = 64 << 10  # bytes that are decompressed at once
_LARGEST_COUNT = 1 << 40  # tokens; no model has as many in one answer
_AUTOMATIC = zlib.MAX_WBITS | 32  # gzip or zlib, as the data says
_WITHIN = ("message", "response")  # the keys under which events have what has `usage`

# each vendor's counts, of which an answer has the sum
_INPUT = (
    ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    ("prompt_tokens",),
    ("promptTokenCount", "toolUsePromptTokenCount"),
)
_OUTPUT = (("output_tokens",), ("completion_tokens",), ("candidatesTokenCount", "thoughtsTokenCount"))
_COUNTS = {key for keys in (*_INPUT, *_OUTPUT) for key in keys}


class Tokens:
    """The tokens of one answer, as its parts report them. Counts grow: the largest of each is in force."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.complete = False  # a count has come that is not the one of a stream's beginning

    @property
    def input(self) -> int:
        """Tokens of the request, those that a cache had included."""
        return max(map(self._sum, _INPUT))

    @property
    def output(self) -> int:
        """Tokens of the answer."""
        return max(map(self._sum, _OUTPUT))

    def take(self, document: Any) -> None:
        """Take the counts from a part of an answer, if it has some."""
        for each in document if isinstance(document, list) else [document]:
            if isinstance(each, dict):
                self._take(each)
                for name in _WITHIN:
                    if isinstance(inner := each.get(name), dict):
                        self._take(inner, begun=name == "message")

    def _take(self, part: Mapping[str, Any], *, begun: bool = False) -> None:
        for name in ("usage", "usageMetadata"):
            if isinstance(found := part.get(name), dict):
                self.complete = self.complete or not begun
                for key in _COUNTS & found.keys():
                    if type(value := found[key]) is int and value <= _LARGEST_COUNT:
                        self._counts[key] = max(value, self._counts.get(key, 0))

    def _sum(self, keys: Iterable[str]) -> int:
        return sum(self._counts.get(key, 0) for key in keys)


class AnswerReader:
    """Reads an answer with a media type and a content coding. What it cannot read reports nothing."""

    def __init__(self, kind: str = "", coding: str = "") -> None:
        self.tokens = Tokens()
        self.size = 0  # bytes, decompressed where that is possible
        self._read: Callable[[bytes], None] | None = None
        self._finish: Callable[[], None] | None = None
        name = kind.partition(";")[0].strip().lower()
        if name == "text/event-stream":
            events = _Events(self.tokens)
            self._read, self._finish = events.feed, events.end
        elif name == "application/json":
            document = _Document(self.tokens)
            self._read, self._finish = document.feed, document.end
        coding = coding.strip().lower()
        self._zipped = _Unzipping() if coding in ("gzip", "x-gzip", "deflate") else None
        if self._zipped is None and coding not in ("", "identity"):
            self._read = self._finish = None

    def feed(self, data: bytes) -> None:
        """Read the next part."""
        if self._zipped is None or self._read is None:
            self._take(data)
            return
        try:
            for piece in self._zipped.feed(data):
                self._take(piece)
        except (zlib.error, ValueError):
            self._read = self._finish = None

    def end(self) -> None:
        """Read what is left at the end of the answer."""
        if self._finish is not None:
            self._finish()

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self._read is not None:
            self._read(data)


class _Unzipping:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_AUTOMATIC)
        self._total = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what is in a part, in pieces. Raises zlib.error, ValueError for more than MOST."""
        while data and not self._stream.eof:
            piece = self._stream.decompress(data, _PIECE)
            data = self._stream.unconsumed_tail
            self._total += len(piece)
            if self._total > MOST:
                raise ValueError("too large")
            yield piece


class _Document:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._data = bytearray()
        self._too_large = False

    def feed(self, data: bytes) -> None:
        self._too_large = self._too_large or len(self._data) + len(data) > LARGEST
        if self._too_large:
            self._data.clear()
        else:
            self._data += data

    def end(self) -> None:
        _take_json(self._tokens, bytes(self._data))
        self._data.clear()


class _Events:
    """Server-sent events, of which only those are parsed that report tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._line = bytearray()
        self._searched = 0
        self._event: list[bytes] = []
        self._size = 0  # of the event

    def feed(self, data: bytes) -> None:
        self._line += data
        begin = 0
        while (at := self._line.find(b"\n", max(begin, self._searched))) >= 0:
            self._take(bytes(self._line[begin:at]).removesuffix(b"\r"))
            begin = at + 1
        del self._line[:begin]
        if len(self._line) > LARGEST:
            self._line.clear()
            self._drop()
        self._searched = len(self._line)

    def end(self) -> None:
        self._take(bytes(self._line))
        self._take(b"")

    def _take(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._size += len(line)
            if self._size > LARGEST:
                self._drop()
            else:
                self._event.append(line[5:])
        elif not line:
            data = b"\n".join(self._event)
            self._event.clear()
            self._size = 0
            if b"usage" in data:
                _take_json(self._tokens, data)

    def _drop(self) -> None:
        """Forget an event that is too large, up to its end."""
        self._event.clear()
        self._size = LARGEST


def _take_json(tokens: Tokens, data: bytes) -> None:
    with suppress(ValueError, RecursionError):
        tokens.take(json.loads(data))
