"""What a bottle has pushed, and what of it was refused: one JSON object a line, for the record of its run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bot_bottle.git.checks import Update
from bot_bottle.host.text import printable

NAME = "pushes.jsonl"

Verdict = Literal["pushed", "held", "refused"]

_LARGEST = 1 << 20  # bytes; the bottle decides how often it pushes
_KEPT = 100  # entries of a record
_LONGEST = 300  # characters


def write(path: Path, remote: str, updates: Iterable[Update], verdict: Verdict, reason: str = "") -> None:
    """Append a line for each branch of a push, unless the log or the disk is full."""
    for update in updates:
        entry = {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "remote": remote,
            "branch": printable(update.branch, limit=_LONGEST),
            "old": update.old,
            "new": update.new,
            "verdict": verdict,
            "reason": printable(reason, limit=_LONGEST),
        }
        with suppress(OSError), path.open("ab") as file:
            if file.tell() < _LARGEST:
                file.write(json.dumps(entry).encode() + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the last entries of a log, the oldest first; an empty list without a log."""
    try:
        lines = path.read_bytes().splitlines()[-_KEPT:]
        return [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []


def describe(entries: Sequence[dict[str, Any]], bottle: str) -> Iterator[str]:
    """Yield a line for each branch that was pushed or is held, with its last commit."""
    last = {(each["remote"], each["branch"]): each for each in entries if each["verdict"] != "refused"}
    for (remote, branch), each in last.items():
        where = f"is pushed to {remote}" if each["verdict"] == "pushed" else f"is held for {remote}"
        yield f"push     {branch} {each['new'][:12]} {where}"
    if any(each["verdict"] == "held" for each in last.values()):
        yield f"push     push it on with: bottle forward {bottle}"
