"""`bottle logs`: what a detached bottle has printed."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bot_bottle.bottle import manage
from bot_bottle.bottle import network as walls
from bot_bottle.cli import complete_names as completing
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import human_bytes

_HELP = """Print what the command of the detached bottle NAME has printed, both its streams together.

It is the command's own bytes: what steers a terminal is not taken out. Of more than 64 MiB the oldest part is
dropped, which is said on standard error. With --egress it is what the bottle's walls refused instead, of any
bottle: time, host, port and reason.

\b
Examples:
  bottle logs blue
  bottle logs -f blue
  bottle logs --egress -f blue
"""


@click.command("logs", help=_HELP)
@click.argument("name", shell_complete=completing.with_output)
@click.option("-f", "--follow", is_flag=True, help="Go on until the bottle has ended.")
@click.option("--egress", is_flag=True, help="Print what it was refused on its way out.")
@click.option("--json", "as_json", is_flag=True, help="With --egress: print a JSON document a line.")
def command(name: str, follow: bool, egress: bool, as_json: bool) -> None:
    """Print a log."""
    if as_json and not egress:
        raise UsageError("--json goes with --egress: what a bottle prints is its command's own")
    if egress:
        for entry in walls.refusals(name, follow=follow):
            click.echo(json.dumps(entry) if as_json else _line(entry))
        return
    for data in manage.log(name, follow=follow, on_dropped=_say_dropped):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _line(entry: dict[str, Any]) -> str:
    port = entry.get("port")
    target = f"{entry.get('host')}:{port}" if port else str(entry.get("host"))
    line = f"{entry.get('time')}  {target}  {entry.get('reason')}"
    return "".join(char if char.isprintable() else "?" for char in line)  # a bottle chose what it asked for


def _say_dropped(count: int) -> None:
    click.echo(f"bottle: the oldest {human_bytes(count)} are not kept any more", err=True)
