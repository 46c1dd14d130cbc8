"""`bottle allow`: add rules to the network policy of a running bottle."""

from __future__ import annotations

import click

from bot_bottle.bottle import network as walls
from bot_bottle.cli import complete_names as completing

_HELP = """Allow the running bottle NAME to reach HOST: a host, *.domain, address or range; :PORT is optional.

It is in force from the next request until the bottle exits. A bottle that was started without a network, or
with --accel nested, cannot be changed; the message says how to run it again.

\b
Examples:
  bottle allow blue api.example.org
  bottle allow blue pypi.example.org '*.files.example.org:443'
"""


@click.command("allow", help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
def command(name: str, hosts: tuple[str, ...]) -> None:
    """Add rules, and print the whole policy."""
    for rule in walls.allow(name, list(hosts)).rules:
        click.echo(str(rule))
