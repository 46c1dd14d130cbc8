"""`bottle bench`: time each method of making an artifact from an image."""

from __future__ import annotations

import json
from typing import Any

import click
from msgspec import to_builtins

from bot_bottle import bench
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.output import table
from bot_bottle.host.progress import human_bytes

_HELP = """Time every method of making a .smolmachine from PATH's Dockerfile (default: the current folder).

Each is timed cold (empty cache) and warm (unchanged input); medians are shown. Your own cache is neither used
nor changed.

\b
Examples:
  bottle bench
  bottle bench --image myagent:latest --rounds 5
  bottle bench --smolvm            time smolvm's own packer too
  bottle bench --json . | jq .auto
"""


@click.command("bench", help=_HELP)
@options.build_arguments
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of runs per method.",
)
@click.option("--smolvm", is_flag=True, help="Time smolvm's packer too, which needs a virtual machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.engine_option
@options.accel_option
@options.yes_option
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, rounds: int, smolvm: bool, as_json: bool, **given: Any) -> None:
    """Measure and print."""
    source = inputs.source(ctx, inputs.settings(ctx))
    report = bench.measure(
        source,
        bench.NATIVE + (bench.SMOLVM if smolvm else ()),
        rounds=rounds,
        engine=given["engine"],
        accel=given["accel"],
        progress=options.progress(quiet=given["quiet"] or as_json, verbose=given["verbose"]),
    )
    click.echo(json.dumps(described(report), indent=2) if as_json else shown(report))


def described(report: bench.Report) -> dict[str, Any]:
    """Return a report as a JSON document. All times are seconds."""
    way, why = report.auto
    return {**to_builtins(report), "auto": {**to_builtins(way), "why": why}}


def shown(report: bench.Report) -> str:
    """Return a report as text."""
    lines = [f"image     {report.image_id[:19]}"]
    if report.first_build is not None and report.next_build is not None:
        lines.append(f"build     {report.first_build:.2f} s; unchanged {report.next_build:.2f} s")
    rows: list[tuple[str, ...]] = [("packer", "transport", "cold", "warm", "size", "of the cold one")]
    for timing in report.timings:
        way = (timing.way.packer, timing.way.transport)
        if timing.failure:
            rows.append((*way, f"does not work here: {timing.failure}"))
            continue
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in timing.stages.items())
        times = (f"{timing.cold:.2f} s", f"{timing.warm:.2f} s")
        rows.append((*way, *times, human_bytes(timing.size), parts))
    best, why = report.auto
    shown = table(rows, least=(8, 9, 7, 7, 8), right=(2, 3, 4))
    return "\n".join([*lines, "", shown, "", f"auto takes {best.packer}, {best.transport}: {why}"])
