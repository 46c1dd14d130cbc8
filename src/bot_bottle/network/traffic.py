"""What a bottle reached and was refused, by host: the summary of its audit log for the receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

MOST = 100  # hosts in a summary


class _Count(Struct):
    """Connections and requests; `up` and `down` are bytes from and to the bottle."""

    requests: int = 0
    refused: int = 0
    up: int = 0
    down: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.requests += 1
        self.refused += entry.get("verdict", "refused") == "refused"
        self.up += _size(entry.get("up"))
        self.down += _size(entry.get("down"))


def summarize(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of a log's entries, in all and by host and port, those with most bytes first.

    `more_hosts` says how many are left out. A connection that was refused counts as one too. `bytes_cached`
    are those of `bytes_down` that are from the cache of packages.
    """
    total, counts, cached = _Count(), dict[tuple[str, int], _Count](), 0
    for entry in entries:
        host, port = entry.get("host"), entry.get("port")
        if isinstance(host, str) and type(port) is int and entry.get("verdict") != "changed":
            total.add(entry)
            cached += _size(entry.get("down")) if entry.get("cached") is True else 0
            counts.setdefault((host, port), _Count()).add(entry)
    order = sorted(counts.items(), key=lambda item: (-item[1].up - item[1].down, -item[1].requests, item[0]))
    hosts = [
        {
            "host": host,
            "port": port,
            "requests": count.requests,
            "refused": count.refused,
            "up": count.up,
            "down": count.down,
        }
        for (host, port), count in order[:MOST]
    ]
    return {
        "requests": total.requests,
        "refused": total.refused,
        "bytes_up": total.up,
        "bytes_down": total.down,
        "bytes_cached": cached,
        "hosts": hosts,
        "more_hosts": len(counts) - len(hosts),
    }


def _size(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
