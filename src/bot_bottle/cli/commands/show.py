"""`bottle show` (`inspect`): the record of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from bot_bottle.bottle import manage, records
from bot_bottle.bottle.spec import check_slug
from bot_bottle.cli import complete_names as completing
from bot_bottle.cli.output import table
from bot_bottle.host.progress import human_bytes, human_count
from bot_bottle.host.text import printable_lines

_HOSTS = 20  # that are shown

_HELP = """Show the record of the last run of the bottle NAME (default: of the last run of all).

It has the image, the settings, the exit status, the git commits that the bottle started from and made, what
it reached and was refused by host, and the seconds of each stage. Values of variables are never stored.
`bottle inspect` is the same command.

\b
Examples:
  bottle show
  bottle show blue
  bottle show --json blue | jq .git.result
  bottle show --json blue | jq '.egress.hosts[] | select(.refused > 0)'
"""


@click.command("show", help=_HELP)
@click.argument("name", required=False, shell_complete=completing.known)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """Print one record."""
    record = records.newest(check_slug(name) if name else None)
    record.egress = record.egress or record.traffic()
    record.take_usage()
    if as_json:
        click.echo(json.dumps(record.to_json(), indent=2))
        return
    lines = _lines({"state": manage.state(record), **record.to_json()})
    click.echo(table([(key, printable_lines(value)) for key, value in lines], least=(19,), most=19))


def _lines(document: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        name = f"{above}{key}"
        if name == "proof" and isinstance(value, dict) and value:
            yield name, _isolation(value)
        elif name == "egress" and isinstance(value, dict):
            yield from _traffic(value)
        elif isinstance(value, dict) and value:
            yield from _lines(value, f"{name}.")
        elif isinstance(value, str):
            yield name, value or "-"
        else:
            yield name, "-" if value in (None, [], {}) else json.dumps(value)


def _traffic(egress: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what was reached and refused: in all, and for each of some hosts."""
    counts = _counts(egress, egress.get("bytes_up"), egress.get("bytes_down"))
    cached = egress.get("bytes_cached") or 0
    yield "egress", f"{counts}, {human_bytes(cached)} of it cached" if cached else counts
    hosts = [each for each in egress.get("hosts") or () if isinstance(each, dict)]
    for each in hosts[:_HOSTS]:
        place = str(each.get("host")) + (f":{each['port']}" if each.get("port") else "")
        yield "egress.host", f"{place}  {_counts(each, each.get('up'), each.get('down'))}"
    more = len(hosts[_HOSTS:]) + (egress.get("more_hosts") or 0)
    if more:
        yield "egress.host", f"and {human_count(more, 'other')}: bottle logs --egress --all"


def _counts(counted: dict[str, Any], up: Any, down: Any) -> str:
    requests = human_count(counted.get("requests") or 0, "request")
    refused = counted.get("refused") or 0
    sizes = f"{human_bytes(up or 0)} up, {human_bytes(down or 0)} down"
    return f"{requests}, {refused} refused, {sizes}"


def _isolation(proof: dict[str, Any]) -> str:
    """Return whether the isolation was in force; the single probes are in the JSON."""
    bad = [f"{name}: {found.get('outcome')}" for name, found in proof.items() if not found.get("ok")]
    return f"not isolated: {', '.join(bad)}" if bad else f"isolated, {len(proof)} probes"
