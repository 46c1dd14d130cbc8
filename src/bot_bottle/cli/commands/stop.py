"""`bottle stop`: stop running bottles."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing

_HELP = """Stop running bottles: SIGTERM to the command; after the timeout the bottle is killed.

Work in a clone is brought back as at any exit. Stopping an exited bottle is not an error.

\b
Examples:
  bottle stop blue
  bottle stop -t 60 blue green
"""


@click.command("stop", help=_HELP)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completing.running)
@click.option(
    "-t",
    "--time",
    "patience",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="Seconds to wait before the bottle is killed.",
)
def command(names: tuple[str, ...], patience: float) -> None:
    """Stop each, and print its name."""
    for name in names:
        manage.stop(name, patience)
        click.echo(name)
