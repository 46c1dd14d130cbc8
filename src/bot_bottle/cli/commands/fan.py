"""`bottle fan`: one command in several bottles at once."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from click.core import ParameterSource

from bot_bottle.bottle import run as bottle
from bot_bottle.bottle.detach import detached_runner
from bot_bottle.bottle.replicas import Result, fan
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli import agent as agents
from bot_bottle.cli import cluster, options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.bottle_spec import bottle_spec
from bot_bottle.cli.commands.run import CommandAfterDashes, reject_extra_arguments
from bot_bottle.cli.output import table
from bot_bottle.cli.shared_cache import convert_options
from bot_bottle.config.settings import Setting, Settings
from bot_bottle.engine.source import Source
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import Progress
from bot_bottle.structs import replace

_HELP = """Run CMD in N bottles at once, each in a clone of the repository on a branch of its own.

The Dockerfile is built and converted once. The bottles are named after --name, with a number. Their output
is kept for bottle logs, their changes for bottle diff and apply. At the end a table shows exit statuses,
commits, changed lines and seconds. The exit status is 0 if every command's was, otherwise 1. Ctrl-C stops all
of them. With --on they run on the nodes of a Ray cluster (see bottle node).

\b
Examples:
  bottle fan 3 --agent claude -p 'fix the tests'
  bottle fan 8 -m 1g --name try ~/project -- ./attempt
  bottle fan 30 --on ray://head:10001 -- ./attempt
  bottle fan 3 --json -- ./attempt | jq '.[] | select(.exit_status == 0).name'
"""

_USED = ("REQUESTS", "TOKENS")


@click.command("fan", cls=CommandAfterDashes, help=_HELP)
@click.argument("count", type=click.IntRange(min=1), metavar="N")
@options.bottle_arguments
@click.option("--name", metavar="NAME", help="Name prefix (default: generated).")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@cluster.on_option
@cluster.retries_option
@cluster.send_secrets_option
@cluster.max_work_option
@options.engine_options
@options.cache_push_option
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, count: int, extra: tuple[str, ...], as_json: bool, **given: Any) -> int:
    """Run the bottles, and print the results."""
    reject_extra_arguments(ctx, extra)
    holder = detached_runner()
    settings = inputs.settings(ctx, ctx.obj)
    spec = _spec(ctx, settings)
    chosen = convert_options(ctx, settings)
    if holder:
        source = Source(image=holder.image) if holder.image else spec.source
        own = replace(spec, slug=holder.name, source=source)
        chosen = replace(chosen, shared=None)  # the artifact is in the cache
        return bottle.run_bottle(own, chosen, Progress(), on_ready=holder.begin)
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    agents.announce(spec, progress)

    def on_end(result: Result) -> None:
        progress.note(f"{'exit':<8} {result.name}: status {result.exit_status}")

    if given["on"]:
        results = cluster.fan(ctx, spec, count, progress, on_end, chosen)
    else:
        cluster.reject_options(ctx)
        results = fan(spec, count, sys.argv[1:], progress, on_end, chosen)
    _show(results, as_json=as_json)
    return 1 if any(result.exit_status for result in results) else 0


def _spec(ctx: click.Context, settings: Settings) -> BottleSpec:
    given = ctx.get_parameter_source("workspace") in (
        ParameterSource.COMMANDLINE,
        ParameterSource.ENVIRONMENT,
    )
    if given and settings.value("workspace") != "clone":
        raise UsageError("fan always uses --workspace clone", next_step="drop --workspace")
    return bottle_spec(ctx, settings.replaced("workspace", Setting("clone", "bottle fan")))


def _show(results: list[Result], *, as_json: bool) -> None:
    rows = [_row(result) for result in results]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    used = any(row["usage"] for row in rows)
    nodes = any(row["nodes"] for row in rows)
    heads = (*(_USED if used else ()), *(("NODE",) if nodes else ()))
    lines: list[tuple[str, ...]] = [("NAME", "STATUS", "COMMITS", "FILES", "  LINES", "SECONDS", *heads)]
    for row in rows:
        status = "timed out" if row["limit"] == "timeout" else str(row["exit_status"])
        counts = (str(row[key]) for key in ("commits", "files"))
        changed = f"  +{row['added']} -{row['removed']}"
        ends = (*_used(row, used=used), *((cluster.node(row["nodes"]),) if nodes else ()))
        lines.append((row["name"], status, *counts, changed, f"{row['seconds']:.1f}", *ends))
    right = (1, 2, 3, 5, *((6, 7) if used else ()))
    click.echo(table(lines, least=(0, 6, 7, 5, 13, 9), right=right))


def _used(row: dict[str, Any], *, used: bool) -> tuple[str, ...]:
    """Return the counts of what a bottle has used; a star marks those that its budget has ended."""
    usage = row["usage"] or {"requests": 0, "input_tokens": 0, "output_tokens": 0}
    counts = usage["requests"], usage["input_tokens"] + usage["output_tokens"]
    limits = ("requests", "tokens")
    marks = ("*" if row["limit"] == each else "" for each in limits)
    return tuple(f"{count}{mark}" for count, mark in zip(counts, marks, strict=True)) if used else ()


def _row(result: Result) -> dict[str, Any]:
    git = result.record.git or {}
    seconds = result.record.seconds.get("total", 0.0)
    counts = {key: git.get(key) or 0 for key in ("commits", "files", "added", "removed")}
    branch, uncommitted = git.get("branch") or None, bool(git.get("uncommitted"))
    return {
        "name": result.name,
        "exit_status": result.exit_status,
        "branch": branch,
        "uncommitted": uncommitted,
        **counts,
        "seconds": seconds,
        "usage": result.record.usage,
        "limit": result.record.limit,
        "nodes": list(result.nodes),
        "error": result.record.error,
    }
