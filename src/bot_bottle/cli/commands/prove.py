"""`bottle prove`: try the walls of a running bottle."""

from __future__ import annotations

import json

import click

from bot_bottle.bottle import network as walls
from bot_bottle.cli import complete_names as completing

_HELP = """Try the walls of the running bottle NAME from inside, as it was done before its command started.

Each line is one way out that was tried, and what came of it. The status is 119 if one is open that should not
be. What the probes ask for is seen in bottle logs --egress.

\b
Examples:
  bottle prove blue
  bottle prove --json blue | jq 'map_values(.outcome)'
"""


@click.command("prove", help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of each probe its outcome.")
def command(name: str, as_json: bool) -> None:
    """Print what was found."""
    proof = walls.prove(name)
    if as_json:
        click.echo(json.dumps(proof.described(), indent=2))
    else:
        for probe, (outcome, ok) in proof.results.items():
            click.echo(f"{probe:<18} {outcome:<12} {'ok' if ok else 'NOT OK'}")
    proof.require()
