"""Audit log of the connections that a bottle was refused: one JSON object a line.

Each has a time, host, port and reason. The log is stored beside the receipt of its run. Its size is limited,
as the bottle decides what it tries to reach.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LARGEST = 16 << 20  # bytes

_POLL = 0.1  # seconds
_LONGEST = 300  # characters of a host


class Log:
    """The log of a running bottle."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def refused(self, host: str, port: int, reason: str, *, when: str = "") -> None:
        """Write what was refused; `when` is a time in ISO 8601, now by default."""
        self._write(host, port, reason, when)

    def changed(self, rule: str) -> None:
        """Write that a rule was added."""
        self._write(rule, None, "allowed from now on")

    def _write(self, host: str, port: int | None, reason: str, when: str = "") -> None:
        """Append a line, unless the log or the disk is full."""
        now = when or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        line = json.dumps({"time": now, "host": host[:_LONGEST], "port": port, "reason": reason})
        try:
            if self._file.tell() + len(line) < LARGEST:
                self._file.write(f"{line}\n".encode())
        except OSError:
            pass


def clear(path: Path) -> None:
    """Empty a log, if there is one; what is appended later starts at its beginning."""
    if path.exists():
        os.truncate(path, 0)


def read(path: Path, lasts: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
    """Yield what was refused, and what will be refused while `lasts` returns true."""
    while not path.exists():
        if not lasts():
            return
        time.sleep(_POLL)
    with path.open("rb") as file:
        rest = b""
        while True:
            going = lasts()  # asked before reading, so that the last lines are not missed
            while data := file.read(1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                yield from filter(None, map(_entry, lines))
            if not going:
                return
            time.sleep(_POLL)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
