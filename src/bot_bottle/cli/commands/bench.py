"""`bottle bench`: how long each way from an image to an artifact takes here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bot_bottle import bench
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
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
@click.argument("path", required=False, type=click.Path(path_type=Path))
@options.build_options
@click.option("--image", metavar="REF", help="Use an existing image instead of building.")
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
    """Give a report as JSON has it. All times are seconds."""
    way, why = report.auto
    return {**asdict(report), "auto": {**asdict(way), "why": why}}


def shown(report: bench.Report) -> str:
    """Give a report as a person reads it."""
    lines = [f"image     {report.image_id[:19]}"]
    if report.first_build is not None and report.next_build is not None:
        lines.append(f"build     {report.first_build:.2f} s; unchanged {report.next_build:.2f} s")
    lines += ["", f"{'packer':<9} {'transport':<9} {'cold':>8} {'warm':>8} {'size':>9}  of the cold one"]
    for timing in report.timings:
        head = f"{timing.way.packer:<9} {timing.way.transport:<9}"
        if timing.failure:
            lines.append(f"{head} does not work here: {timing.failure}")
            continue
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in timing.stages.items())
        times = f"{timing.cold:>6.2f} s {timing.warm:>6.2f} s"
        lines.append(f"{head} {times} {human_bytes(timing.size):>9}  {parts}")
    way, why = report.auto
    return "\n".join([*lines, "", f"auto takes {way.packer}, {way.transport}: {why}"])
