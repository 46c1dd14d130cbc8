"""`bottle node`: what this machine can do as a node of a Ray cluster."""

from __future__ import annotations

import json

import click

from bot_bottle.cli.output import table
from bot_bottle.cluster.node import find_abilities, ray_options
from bot_bottle.errors import UsageError

_HELP = """Say which bottles this machine runs as a node of a Ray cluster, and how Ray is started for that.

A node announces how many bottles it runs at a time: in containers, and in microVMs with KVM or emulated.
bottle fan --on asks Ray for nodes that do. Without --slots it is one for each processor.

\b
Examples:
  bottle node
  ray start --head $(bottle node --options)
  ray start --address=HEAD:6379 $(bottle node --options --slots 16)
"""


@click.command("node", help=_HELP)
@click.option("--slots", type=click.IntRange(1, 1000), metavar="N", help="Number of bottles at a time.")
@click.option("--options", "only_options", is_flag=True, help="Print only the options of ray start.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(slots: int | None, only_options: bool, as_json: bool) -> None:
    """Print what was found."""
    if only_options and as_json:
        raise UsageError("--options and --json exclude each other")
    abilities = find_abilities()
    options = ray_options(abilities, slots)
    if only_options:
        click.echo(" ".join(options))
    elif as_json:
        found = [
            {"name": each.name, "resource": each.resource or None, "finding": each.finding}
            for each in abilities
        ]
        click.echo(json.dumps({"abilities": found, "options": options}, indent=2))
    else:
        rows = [("BOTTLES IN", "ANNOUNCED AS", "BY")]
        rows += [(each.name, each.resource or "-", each.finding) for each in abilities]
        click.echo(table(rows, least=(10, 12)))
        click.echo(f"\nray start --address=HEAD:6379 {' '.join(options)}")
