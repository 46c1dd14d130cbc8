"""`bottle ls`: list the bottles."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import cluster
from bot_bottle.cli.output import ago, table
from bot_bottle.host.text import printable

_HELP = """List the bottles that run, those that were killed, and those that left a clone or a log.

With --on, list those of the fans on a Ray cluster.

\b
Examples:
  bottle ls
  bottle ls --on ray://head:10001
  bottle ls --all
  bottle ls --json | jq -r '.[] | select(.state == "running").name'
"""

_COMMAND = 40  # characters of the command that are shown
_WIDTHS = (23, 11, 12, 13, 9)


@click.command("ls", help=_HELP)
@click.option("-a", "--all", "everything", is_flag=True, help="List all bottles of the last 200 runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cluster.on_option
def command(everything: bool, as_json: bool, on: str | None) -> None:
    """Print a line for each, or JSON."""
    if on:
        _list_on(on, as_json=as_json)
        return
    bottles = manage.list_bottles(everything=everything)
    if as_json:
        click.echo(json.dumps([_described(each) for each in bottles], indent=2))
        return
    rows = [("NAME", "STATE", "BACKEND", "STARTED", "LEFTOVERS", "COMMAND")]
    for each in bottles:
        facts = _described(each)
        line = printable(" ".join(facts["command"]).replace("\n", " "))[:_COMMAND]
        shown = f"exited ({facts['exit_status']})" if each.state == "ended" else each.state
        began = ago((datetime.now(UTC) - _time(str(facts["began"]))).total_seconds())
        kept = ",".join(each.kept) or "-"
        rows.append((each.name, shown, facts["backend"] or "-", began, kept, line))
    click.echo(table(rows, least=_WIDTHS))


def _list_on(address: str, *, as_json: bool) -> None:
    from bot_bottle.cluster.fleet import list_fans

    with cluster.session(address) as session:
        found = [(fan.name, each) for fan in list_fans(session) for each in fan.about.bottles]
    if as_json:
        facts = [
            {
                "fan": fan,
                "name": each.name,
                "state": each.state,
                "nodes": list(each.nodes),
                "exit_status": each.report and each.report.exit_status,
            }
            for fan, each in found
        ]
        click.echo(json.dumps(facts, indent=2))
        return
    rows = [("FAN", "NAME", "STATE", "NODE")]
    for fan, each in found:
        state = f"exited ({each.report.exit_status})" if each.report else each.state
        rows.append((fan, each.name, state, cluster.node(each.nodes)))
    click.echo(table(rows, least=(10, 12, 12)))


def _described(bottle: manage.BottleState) -> dict[str, Any]:
    record = bottle.record
    plan = record.plan or {}
    facts = {key: getattr(record, key) for key in ("began", "ended", "exit_status", "pid")}
    return {
        "name": bottle.name,
        "state": bottle.state,
        "backend": plan.get("backend"),
        "command": plan.get("command") or [],
        "kept": list(bottle.kept),
        **facts,
    }


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
