"""`bottle logs`: print the output of a detached bottle."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bot_bottle.bottle import manage
from bot_bottle.bottle import network as walls
from bot_bottle.cli import cluster
from bot_bottle.cli import complete_names as completing
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import Progress, human_bytes
from bot_bottle.host.text import printable

_HELP = """Print the output of the detached bottle NAME, standard output and error together.

The bytes are the command's own: control characters are not removed. The newest 64 MiB are kept; what was
dropped is reported on standard error. With --egress, print the refused connections of any bottle instead:
time, host, port and reason. --all adds those that were allowed, with their bytes from and to the bottle, and
the path of requests that were read; "cached" are those that the cache of packages answered. With --on, print
the newest output of a fan on a Ray cluster, or of one of its bottles, each line after the bottle's name.

\b
Examples:
  bottle logs blue
  bottle logs -f blue
  bottle logs --on ray://head:10001 -f try
  bottle logs --egress -f blue
  bottle logs --egress --all --json blue | jq 'select(.up > 1000000)'
"""


@click.command("logs", help=_HELP)
@click.argument("name", shell_complete=completing.with_output)
@click.option("-f", "--follow", is_flag=True, help="Follow until the bottle exits.")
@click.option("--egress", is_flag=True, help="Print refused connections.")
@click.option("--all", "everything", is_flag=True, help="With --egress, print allowed connections too.")
@click.option("--json", "as_json", is_flag=True, help="With --egress, print one JSON object per line.")
@cluster.on_option
def command(name: str, follow: bool, egress: bool, everything: bool, as_json: bool, on: str | None) -> None:
    """Print a log."""
    if on and egress:
        raise UsageError("--egress and --on exclude each other")
    if (as_json or everything) and not egress:
        raise UsageError(f"{'--json' if as_json else '--all'} needs --egress")
    if on:
        from bot_bottle.cluster import fleet

        with cluster.session(on) as session:
            found = fleet.find(session, name)
            fleet.show_output(session, found, Progress("plain", sys.stdout), follow=follow)
        return
    if egress:
        for entry in walls.requests(name, everything=everything, follow=follow):
            click.echo(json.dumps(entry) if as_json else _line(entry, verdict=everything))
        return
    for data in manage.log(name, follow=follow, on_dropped=_say_dropped):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _line(entry: dict[str, Any], *, verdict: bool) -> str:
    """Return an entry as text, whose parts have two spaces between them, with its `verdict` or without."""
    port, method = entry.get("port"), entry.get("method")
    said = "cached" if entry.get("cached") is True else entry.get("verdict", "refused")
    parts = [
        str(entry.get("time")),
        f"{said:<7}" if verdict else "",
        f"{entry.get('host')}:{port}" if port else str(entry.get("host")),
        f"{method} {entry.get('path', '')}" if method else "",
        str(entry.get("reason") or ""),
    ]
    if entry.get("verdict") in ("allowed", "failed"):
        up, down = (human_bytes(_number(entry.get(key))) for key in ("up", "down"))
        parts.append(f"{up} up, {down} down, {_number(entry.get('seconds')):.1f} s")
    return printable("  ".join(filter(None, parts)))  # the bottle decided what it tries to reach


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0


def _say_dropped(count: int) -> None:
    click.echo(f"bottle: the oldest {human_bytes(count)} were dropped", err=True)
