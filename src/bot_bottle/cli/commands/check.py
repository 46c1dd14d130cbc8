"""`bottle check`: check the network isolation of a running bottle."""

from __future__ import annotations

import json

import click

from bot_bottle.bottle import network
from bot_bottle.cli import complete_names as completing
from bot_bottle.cli.output import table
from bot_bottle.host.progress import Progress

_HELP = """Check from inside what the running bottle NAME can reach, as before its command started.

Each line is one probe and its outcome. The exit status is 119 if something is reachable that should not be.
What the probes ask for appears in bottle logs --egress.

\b
Examples:
  bottle check blue
  bottle check --json blue | jq 'map_values(.outcome)'
"""


@click.command("check", help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome of each probe as JSON.")
def command(name: str, as_json: bool) -> None:
    """Print the outcome of each probe."""
    proof = network.check(name, Progress("plain"))
    if as_json:
        click.echo(json.dumps(proof.described(), indent=2))
    else:
        rows = [(probe, outcome, "ok" if ok else "NOT OK") for probe, (outcome, ok) in proof.results.items()]
        click.echo(table(rows, least=(17, 11)))
    proof.require()
