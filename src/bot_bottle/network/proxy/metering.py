"""Counts what a bottle uses with its credentials, and refuses requests when its budget is used up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

from bot_bottle.network.proxy.model_usage import AnswerReader
from bot_bottle.network.usage import Budget, Usage, UsageFile

# the paths at which models answer, at all vendors and at those that speak their protocols
_MODEL = re.compile(r"(?:/(?:messages|responses|completions)|:(?:g|streamG)enerateContent)/*$")
# what models answer later, with tokens in no answer that passes here
_UNCOUNTED = re.compile(r"(?:/batches|/realtime(?:/.*)?|:(?:asyncB|b)atch\w+)/*$")
_PER_TOKEN = 4  # bytes, for an estimate
_REDIRECTED = 300


class Meter:
    """The counts of one bottle; `path` is the file in which they are, None to count nothing."""

    def __init__(self, budget: Budget, path: Path | None) -> None:
        self._budget = budget
        self._file = None if path is None else UsageFile(path)
        self.usage = Usage()

    @property
    def limits(self) -> bool:
        """Whether there is a budget."""
        return self._budget.limited is not None

    def begin(self, method: str, path: str) -> str:
        """Count a request that is about to be sent. Return why it is refused instead, or ""."""
        if spent := self.usage.spent(self._budget):
            self.usage.refused = spent
            self.save()
            return f"the budget of {getattr(self._budget, spent)} {spent} is used up"
        if self._budget.tokens is not None and method == "POST" and _UNCOUNTED.search(_place(path)):
            return "the tokens of such requests cannot be counted, and the bottle has a budget of tokens"
        self.usage.requests += 1
        self.save()
        return ""

    def answer(self, method: str, path: str) -> Answer:
        """Return what counts the tokens of the answer to a request."""
        return Answer(self, models=method == "POST" and _MODEL.search(_place(path)) is not None)

    def save(self) -> None:
        """Write the counts into their file."""
        if self._file is not None:
            self._file.write(self.usage)


def _place(path: str) -> str:
    return unquote(path.partition("?")[0])


class Answer:
    """The answer to one request. Tokens count as soon as they are reported."""

    def __init__(self, meter: Meter, *, models: bool) -> None:
        self._meter = meter
        self._models = models
        self._reader = AnswerReader()
        self._failed = False
        self._input = self._output = 0

    def begin(self, status: int, kind: str, coding: str) -> None:
        """Begin to read an answer with a status, a media type and a content coding."""
        self._failed = status >= _REDIRECTED
        if not self._failed:
            self._reader = AnswerReader(kind, coding)

    def feed(self, data: bytes) -> None:
        """Read the next part of the answer."""
        self._reader.feed(data)
        self._count(self._reader.tokens.input, self._reader.tokens.output)

    def end(self, sent: int) -> None:
        """Count the end of the answer to a request of which `sent` bytes were sent.

        A model's that reports no tokens, as one that was broken off, has an estimate by the bytes of both.
        """
        self._reader.end()
        tokens = self._reader.tokens
        self._count(tokens.input, tokens.output)
        if self._models and not self._failed and not tokens.complete:
            self._meter.usage.estimated += 1
            self._count(tokens.input or -(-sent // _PER_TOKEN), -(-self._reader.size // _PER_TOKEN))
        self._meter.save()

    def _count(self, given: int, taken: int) -> None:
        usage, given, taken = self._meter.usage, max(given, self._input), max(taken, self._output)
        usage.input_tokens += given - self._input
        usage.output_tokens += taken - self._output
        self._input, self._output = given, taken


def refusal(text: str) -> bytes:
    """Return the body of a refused request, as an error of each vendor's protocol: they do not contradict.

    With the status 400 no client sends the request again.
    """
    error = {
        "type": "invalid_request_error",
        "message": text,
        "code": 400,
        "status": "FAILED_PRECONDITION",
        "param": None,
    }
    return json.dumps({"type": "error", "error": error}).encode() + b"\n"
