"""`bottle allow`: let a running bottle reach more."""

from __future__ import annotations

import click

from bot_bottle.bottle import network as walls
from bot_bottle.cli import complete_names as completing

_HELP = """Let the running bottle NAME reach HOST too: a host, *.domain, address or range, or one with :PORT.

It holds from the next request on, until the bottle ends. A bottle that began without a network cannot be
changed, nor one on an emulated host: you are told how to run those again.

\b
Examples:
  bottle allow blue api.example.org
  bottle allow blue pypi.example.org '*.files.example.org:443'
"""


@click.command("allow", help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
def command(name: str, hosts: tuple[str, ...]) -> None:
    """Widen its policy, and print all of it."""
    for rule in walls.allow(name, list(hosts)).rules:
        click.echo(str(rule))
