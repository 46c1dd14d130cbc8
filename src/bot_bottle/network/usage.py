"""What a bottle has used with its credentials: requests, and the tokens that models report in their answers.

The proxy counts, and writes the counts into a file beside the receipt of the run.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from bot_bottle.host.progress import human_count

_ROOM = 256  # bytes of a file: it is overwritten in its place, always as a whole

Kind = Literal["requests", "tokens"]


class Budget(Struct, frozen=True):
    """The most requests with a bottle's credentials, and the most tokens of their answers. None: any number.

    Tokens of input and output count alike.
    """

    requests: int | None = None
    tokens: int | None = None

    @property
    def limited(self) -> Kind | None:
        """One of those that have a limit; None if there is none."""
        return "tokens" if self.tokens is not None else "requests" if self.requests is not None else None


class Usage(Struct):
    """The counts. `estimated` are the requests whose tokens are an estimate, as their answer reported none.

    `refused` is what of the budget was used up, once a request was refused for that; else "".
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    refused: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of input and output."""
        return self.input_tokens + self.output_tokens

    def spent(self, budget: Budget) -> Kind | None:
        """Return what of a budget is used up; None as long as another request may be sent."""
        if budget.requests is not None and self.requests >= budget.requests:
            return "requests"
        return "tokens" if budget.tokens is not None and self.tokens >= budget.tokens else None


class UsageFile:
    """The file of a running bottle. Writing it may fail: that never stops a proxy."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)

    def write(self, usage: Usage) -> None:
        """Write the counts."""
        with suppress(OSError):
            os.pwrite(self._file, json.dumps(asdict(usage)).encode().ljust(_ROOM), 0)


def load_usage(path: Path) -> dict[str, Any] | None:
    """Return the counts of a file as a receipt has them; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_ROOM))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    return {name: document.get(name, default) for name, default in asdict(Usage()).items()}


def describe(usage: dict[str, Any]) -> str:
    """Return the counts of a receipt in words."""
    counts = [human_count(usage["requests"], "request")]
    if usage["input_tokens"] or usage["output_tokens"]:
        counts.append(f"{usage['input_tokens']} input and {usage['output_tokens']} output tokens")
    if usage["estimated"]:
        counts.append(f"those of {human_count(usage['estimated'], 'request')} estimated")
    return ", ".join(counts)
