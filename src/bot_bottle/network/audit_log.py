"""Audit log of a bottle's connections and requests: one JSON object a line, written when each has ended.

The log is stored beside the receipt of its run. The bottle decides what is in it, so its size and that of
every field are limited, and secrets are masked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from bot_bottle.host.redact import Mask

LARGEST = 16 << 20  # bytes

_POLL = 0.1  # seconds
_LONGEST = {"host": 300, "method": 30, "path": 1000, "reason": 300, "rule": 300}  # characters of a field
_OPTIONAL = ("rule", "method", "path")  # left out where they are empty
_LINE = 64 << 10  # bytes of one that is read


class Request(Struct, frozen=True):
    """One connection, or one request where requests are read.

    `rule` is the entry that allowed it; `reason` says why it was refused, or failed. `method` and `path`
    (without its query) are those of a request. `up` and `down` are bytes from and to the bottle. `when` is
    the time of its end in RFC 3339 form, now by default. `cached` is whether it was answered by the cache of
    packages, and nothing outside was asked.
    """

    host: str
    port: int
    verdict: Literal["allowed", "refused", "failed"]
    reason: str = ""
    rule: str = ""
    method: str = ""
    path: str = ""
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    when: str = ""
    cached: bool = False


class Log:
    """The log of a running bottle. `hidden` are values that are masked in it, in every form of `redact`."""

    def __init__(self, path: Path, hidden: Iterable[str] = ()) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._hidden = set(hidden)
        self._mask = Mask(self._hidden)

    def hide(self, value: str) -> None:
        """Mask another value from now on."""
        self._hidden.add(value)
        self._mask = Mask(self._hidden)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, request: Request) -> None:
        """Write a connection or request that has ended."""
        self._write(
            {
                "time": request.when or _now(),
                "host": request.host,
                "port": request.port,
                "verdict": request.verdict,
                "reason": request.reason,
                "rule": request.rule,
                "method": request.method,
                "path": request.path.partition("?")[0],
                "up": request.up,
                "down": request.down,
                "seconds": round(request.seconds, 3),
                **({"cached": True} if request.cached else {}),
            }
        )

    def refused(self, host: str, port: int, reason: str, *, when: str = "") -> None:
        """Write what was refused; `when` is a time in RFC 3339 form, now by default."""
        self.write(Request(host, port, "refused", reason, when=when))

    def changed(self, rule: str, reason: str = "allowed from now on") -> None:
        """Write that the policy was changed by a rule."""
        self._write({"time": _now(), "host": rule, "port": None, "verdict": "changed", "reason": reason})

    def _write(self, entry: dict[str, Any]) -> None:
        """Append a line, unless the log or the disk is full."""
        for name, most in _LONGEST.items():
            if name in entry:
                entry[name] = self._mask(str(entry[name]))[:most]
        line = json.dumps(
            {name: value for name, value in entry.items() if value != "" or name not in _OPTIONAL}
        )
        try:
            # asked each time: `allow` writes too, and the log may have been emptied
            if os.fstat(self._file.fileno()).st_size + len(line) < LARGEST:
                self._file.write(f"{line}\n".encode())
        except OSError:
            pass


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def clear(path: Path) -> None:
    """Empty a log, if there is one; what is appended later starts at its beginning."""
    if path.exists():
        os.truncate(path, 0)


def read(path: Path, lasts: Callable[[], bool] = lambda: False) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log, and those that are added while `lasts` returns true."""
    while not path.exists():
        if not lasts() and not path.exists():  # it may have been made since it was looked for
            return
        time.sleep(_POLL)
    with path.open("rb") as file:
        rest = b""
        while True:
            going = lasts()  # asked before reading, so that the last lines are not missed
            if os.fstat(file.fileno()).st_size < file.tell():  # it was cleared
                file.seek(0)
                rest = b""
            while data := file.read(1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                yield from filter(None, map(_entry, lines))
                rest = rest if len(rest) <= _LINE else b""
            if not going:
                return
            time.sleep(_POLL)


def is_refusal(entry: dict[str, Any]) -> bool:
    """Return whether an entry is not about what was allowed; earlier versions only wrote refusals."""
    return bool(entry.get("verdict", "refused") != "allowed")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
