"""A line when a host of a bottle's credentials cannot be reached: an agent may try for minutes in silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.host.text import printable
from bot_bottle.host.threads import working_beside
from bot_bottle.network import audit_log

_PATIENCE = 5.0  # seconds in which a network may come back
_POLL = 1.0  # seconds


@contextmanager
def unreachable_told(log: Path, hosts: Collection[str], warn: Callable[[str], None]) -> Iterator[None]:
    """Warn once, until the block ends, if the proxy with this log cannot connect to one of these hosts."""
    if not hosts:
        yield
        return

    def watch(over: threading.Event) -> None:
        failure = _lasting_failure(log, hosts, over)
        if failure is not None:
            place = printable(f"{failure.get('host')}:{failure.get('port')}", limit=300)
            reason = printable(str(failure.get("reason")), limit=300)
            warn(
                f"{place} cannot be reached from this machine: {reason}; check its network, its resolver and "
                "HTTPS_PROXY (bottle doctor). The command may try again for a long time; Ctrl-C ends it"
            )

    with working_beside(watch):
        yield


def _lasting_failure(log: Path, hosts: Collection[str], over: threading.Event) -> dict[str, Any] | None:
    """Return a failed connection to a host that failed for a while, or that was never reached until the end.

    Hosts that were reached once do not count: what fails later, the command has heard of.
    """
    missing = set(hosts)
    began: dict[str, float] = {}
    last = None
    for entry in audit_log.read(log, lambda: bool(missing) and not over.wait(_POLL)):
        host = entry.get("host")
        if not isinstance(host, str) or host not in missing:
            continue
        if entry.get("verdict") == "allowed":
            missing.discard(host)
        elif _is_failed_connection(entry):
            last, now = entry, time.monotonic()
            lasted = now - began.setdefault(host, now) + _seconds(entry)
            if lasted >= _PATIENCE:
                return entry
    return last if last is not None and last["host"] in missing else None


def _seconds(entry: dict[str, Any]) -> float:
    found = entry.get("seconds")
    return float(found) if isinstance(found, int | float) else 0.0


def _is_failed_connection(entry: dict[str, Any]) -> bool:
    """Return whether a host could not be connected to: not one request, and not for the client's own sake."""
    own = str(entry.get("reason")).startswith("TLS with the bottle")
    return entry.get("verdict") == "failed" and not entry.get("method") and not own
