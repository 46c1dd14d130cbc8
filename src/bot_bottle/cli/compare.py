"""The checks, the run and the output of `bottle run --twin`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from click.core import ParameterSource

from bot_bottle.bottle.compare import Row, Side, compare, twin
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli.output import table
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import Progress
from bot_bottle.host.text import printable
from bot_bottle.pack.options import ConvertOptions

_MOST = 100  # rows
_ALONE = {
    "detach": "--detach",
    "plan_only": "--plan",
    "timed": "--time",
    "backend": "--backend",
    "ask": "--ask",
}


def run(
    ctx: click.Context, spec: BottleSpec, progress: Progress, options: ConvertOptions, *, as_json: bool
) -> int:
    """Run a spec's command on both backends and print the comparison; return 0 if nothing differs, else 1."""
    for name, option in _ALONE.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--twin and {option} exclude each other")
    sides = twin(spec, progress, options)
    rows = list(compare(*sides))
    _print_json(sides, rows) if as_json else _print(sides, rows)
    return 1 if any(row.same is False for row in rows) else 0


def _print_json(sides: Sequence[Side], rows: Sequence[Row]) -> None:
    left, right = (side.backend for side in sides)
    document = {
        **{
            side.backend: {
                "name": side.name,
                "exit_status": side.exit_status,
                "seconds": side.seconds,
            }
            for side in sides
        },
        "same": all(row.same is not False for row in rows),
        "compared": [{"what": row.what, left: row.left, right: row.right, "same": row.same} for row in rows],
    }
    click.echo(json.dumps(document, indent=2))


def _print(sides: Sequence[Side], rows: Sequence[Row]) -> None:
    words = {True: "same", False: "differs", None: ""}
    lines: list[Sequence[str]] = [("", *(side.backend.upper() for side in sides), "")]
    lines += [(row.what, row.left, row.right, words[row.same]) for row in rows[:_MOST]]
    click.echo(table([printable(cell) for cell in cells] for cells in lines))
    if len(rows) > _MOST:
        click.echo(f"and {len(rows) - _MOST} more: --json has all")
    click.echo("output: " + "; ".join(f"bottle logs {side.name}" for side in sides))
