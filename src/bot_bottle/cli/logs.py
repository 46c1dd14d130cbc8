"""`bottle logs`: what a detached bottle has printed."""

from __future__ import annotations

import sys

import click

from bot_bottle import roster
from bot_bottle.cli import completing

_HELP = """Print what the command of the detached bottle NAME has printed, both its streams together.

It is the command's own bytes: what steers a terminal is not taken out.

\b
Examples:
  bottle logs blue
  bottle logs -f blue
"""


@click.command("logs", help=_HELP)
@click.argument("name", shell_complete=completing.with_log)
@click.option("-f", "--follow", is_flag=True, help="Go on until the bottle has ended.")
def command(name: str, follow: bool) -> None:
    """Print the log."""
    for data in roster.log(name, follow=follow):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
