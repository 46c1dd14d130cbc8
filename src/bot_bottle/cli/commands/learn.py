"""`bottle learn`: run a command, and say which entries of `egress.allow` it would have needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bot_bottle.bottle import network as egress
from bot_bottle.bottle import run as bottle
from bot_bottle.bottle.grants import extend_grant, requested_grants
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.asking import questions
from bot_bottle.cli.bottle_spec import bottle_spec
from bot_bottle.cli.commands.run import CommandAfterDashes, reject_extra_arguments
from bot_bottle.cli.shared_cache import convert_options
from bot_bottle.config import edit
from bot_bottle.config.file import NAME
from bot_bottle.config.settings import Settings
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import human_count
from bot_bottle.host.text import printable
from bot_bottle.network.proposals import Proposals

_HELP = """Run CMD as bottle run does, and say at the end which hosts it would have needed.

Nothing is allowed that is not allowed anyway: every connection is logged, and refused as in bottle run. With
--ask you are asked about each, and what you allow counts too. The entries are printed on standard error, and
after a yes on the terminal, or with --yes, written to [egress] allow of bottle.toml, whose comments stay. A
program often gives up at the first host, so it can take some runs. The exit status is the command's.

\b
Examples:
  bottle learn . -- pip install -r requirements.txt
  bottle learn --ask --backend docker . -- npm ci
"""

_SHOWN = 20  # hosts without a proposal


@click.command("learn", cls=CommandAfterDashes, help=_HELP)
@options.bottle_arguments
@click.option("--name", metavar="NAME", help="Name of the bottle (default: generated).")
@options.ask_option
@options.docker_compat_flags
@options.engine_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, extra: tuple[str, ...], ask: bool, **given: Any) -> int:
    """Run the command, print what it would have needed, and write it if the user agrees."""
    del ask  # it is in the spec
    reject_extra_arguments(ctx, extra)
    settings = inputs.settings(ctx, ctx.obj)
    spec = bottle_spec(ctx, settings)
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    chosen = convert_options(ctx, settings)
    target = _target(settings)
    with questions(ctx, spec) as (tty, on_ready):
        status = bottle.run_bottle(spec, chosen, progress, tty=tty, on_ready=on_ready)
    found = egress.proposals(spec.slug, spec.egress)
    _show(found)
    entries = [each.entry for each in found.entries]
    if entries:
        _take_over(ctx, settings, spec, target, entries)
    return status


def _target(settings: Settings) -> edit.Snapshot | SpecError:
    """Return the bottle.toml to write as it is before the command runs, or why none can be written."""
    if settings.devcontainer is not None:
        return SpecError(
            f"the configuration is {settings.file}, which has no place for them",
            next_step=f"give them as --allow; or write a {NAME}, which takes its place",
        )
    try:
        return edit.take_snapshot(settings.file or settings.project.absolute() / NAME)
    except SpecError as error:
        return error


def _show(found: Proposals) -> None:
    lines = ["this command needed no host that is not allowed"]
    if found.entries:
        lines = ["this command would have needed"]
        for proposal in found.entries:
            covers = [each for each in proposal.covers if not proposal.entry.startswith(each)]
            lines.append(f"  {proposal.entry}" + (f"  for {', '.join(covers)}" if covers else ""))
    if found.others:
        lines.append("it was also refused, and no entry is proposed for")
        lines += [f"  {place}: {reason}" for place, reason in found.others[:_SHOWN]]
        if more := len(found.others) - _SHOWN:
            lines += [f"  and {human_count(more, 'other')}: bottle logs --egress"] if more > 0 else []
    click.echo(
        "\n".join(printable(f"bottle: {line}" if not i else line) for i, line in enumerate(lines)), err=True
    )


def _take_over(
    ctx: click.Context,
    settings: Settings,
    spec: BottleSpec,
    target: edit.Snapshot | SpecError,
    entries: list[str],
) -> None:
    """Write the entries where that is possible and the user agrees. Raises SpecError, TrustError."""
    if isinstance(target, SpecError):
        click.echo(f"bottle: {target}", err=True)
    elif _agreed(target.path, yes=ctx.params["yes"]):
        remotes = {each.name: each.shown for each in spec.git.remotes}
        before = requested_grants(settings, remotes=remotes)
        edit.allow(target, entries)
        # the user has said yes to each of them, so nobody asks about them again
        extend_grant(before, requested_grants(inputs.settings(ctx, ctx.obj), remotes=remotes), entries)
        added = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
        click.echo(f"bottle: {added} added to {target.path}", err=True)


def _agreed(path: Path, *, yes: bool) -> bool:
    """Return whether the user wants them in the file; without a terminal only --yes says so."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo(f"Next: add them to [egress] allow of {path}, or use --yes, or --allow", err=True)
        return False
    return click.confirm(f"Add them to {path}?", default=False, err=True)
