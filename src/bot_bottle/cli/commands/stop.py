"""`bottle stop`: stop running bottles."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import cluster
from bot_bottle.cli import complete_names as completing
from bot_bottle.host.progress import Progress

_HELP = """Stop running bottles: SIGTERM to the command; after the timeout the bottle is killed.

Work in a clone is brought back as at any exit. Stopping an exited bottle is not an error. With --on, stop
fans on a Ray cluster, or single bottles of them; a fan whose caller has gone away is fetched and removed.

\b
Examples:
  bottle stop blue
  bottle stop -t 60 blue green
  bottle stop --on ray://head:10001 try
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
@cluster.on_option
def command(names: tuple[str, ...], patience: float, on: str | None) -> None:
    """Stop each, and print its name."""
    if on:
        _stop_on(on, names)
        return
    for name in names:
        manage.stop(name, patience)
        click.echo(name)


def _stop_on(address: str, names: tuple[str, ...]) -> None:
    from bot_bottle.cluster import fleet

    with cluster.session(address) as session:
        for name in names:
            fleet.stop(session, fleet.find(session, name), Progress(), lambda _: None)
            click.echo(name)
