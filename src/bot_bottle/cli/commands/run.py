"""`bottle run`: build a Dockerfile and run a command in a microVM made from it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from click.core import ParameterSource

from bot_bottle.backend.choice import backend_for
from bot_bottle.bottle import detach, names
from bot_bottle.bottle import run as bottle
from bot_bottle.bottle.detach import detached_runner
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.cli import agent as agents
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.asking import questions, tell_where
from bot_bottle.cli.bottle_spec import bottle_spec
from bot_bottle.cli.groups import GroupedOptions
from bot_bottle.cli.output import table
from bot_bottle.cli.shared_cache import convert_options
from bot_bottle.errors import UsageError
from bot_bottle.host import process_tree, terminal
from bot_bottle.structs import replace

_HELP = """Build PATH's Dockerfile (default: the current folder) and run CMD in a microVM made from it.

CMD replaces the image's ENTRYPOINT and CMD; without it they run. It gets the image's USER, ENV and WORKDIR,
your standard input, output and error, a terminal if you have one, and no network. bottle exits with its
exit status; 99 to 125 are bottle's own. Ctrl-C goes to the command; a second one kills the bottle, but
on a terminal, where every key is the command's, bottle stop does. Nothing is left behind: docker's -it and
--rm are accepted, and are always on.

\b
Examples:
  bottle run
  bottle run ~/project -- claude -p 'fix the tests'
  bottle run -f Dockerfile.agent --target dev --build-arg VERSION=3 . -- bash
  echo 'print(1)' | bottle run -q . -- python3 -
  bottle run --plan .
  bottle run --agent claude . -p 'fix the tests'
  bottle run -d --workspace clone --name blue . -- claude -p 'fix the tests'
  bottle run --backend docker . -- make test
  bottle run --ask --backend docker . -- ./agent
  bottle run --twin --workspace clone . -- make test
  bottle run --image myagent:latest -e DEBUG=1 -u 1000 -w /src -- make test
"""

_OF_ARTIFACTS = ("packer", "accel", "cache_push", "locked")  # options


class CommandAfterDashes(GroupedOptions):
    """Separates the arguments after `--`: the bottle's command, with or without a PATH before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--` and parse what is before it. With --agent, -p is the prompt."""
        split = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[split + 1 :])
        before = args[:split]
        if any(each == "--agent" or each.startswith("--agent=") for each in before):
            before = ["--prompt" if each == "-p" else each for each in before]
        return super().parse_args(ctx, before)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line with the command."""
        return [*filter(None, super().collect_usage_pieces(ctx)), "[-- CMD...]"]


@click.command("run", cls=CommandAfterDashes, help=_HELP)
@options.bottle_arguments
@click.option("--name", metavar="NAME", help="Name of the bottle (default: generated).")
@click.option("-d", "--detach", is_flag=True, help="Run in the background (see bottle logs, bottle stop).")
@click.option("--time", "timed", is_flag=True, help="Print the duration of each stage at the end.")
@click.option("--plan", "plan_only", is_flag=True, help="Print what would run, and start nothing.")
@click.option("--twin", is_flag=True, help="Run CMD on both backends and compare the results.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With --plan or --twin, print JSON; with --prompt, the agent's own.",
)
@options.ask_option
@options.docker_compat_flags
@options.engine_options
@options.cache_push_option
@options.locked_option
@options.output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    extra: tuple[str, ...],
    plan_only: bool,
    as_json: bool,
    timed: bool,
    detach: bool,
    twin: bool,
    ask: bool,
    **given: Any,
) -> int:
    """Build, convert, boot, run, and clean up."""
    reject_extra_arguments(ctx, extra)
    holder = detached_runner()
    settings = inputs.settings(ctx, ctx.obj)
    spec = bottle_spec(ctx, settings)
    spec = replace(spec, slug=holder.name) if holder else spec
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    if twin:
        from bot_bottle.cli import compare as comparison

        return comparison.run(ctx, spec, progress, convert_options(ctx, settings), as_json=as_json)
    if not holder:
        agents.announce(spec, progress)
    _check_choices(ctx, spec, as_json=as_json and not (plan_only or given["prompt"]))
    chosen = convert_options(ctx, settings)
    if plan_only:
        _show(bottle.make_plan(spec, chosen, progress).described(), as_json=as_json)
        return 0
    if detach and not holder:
        if ask:
            tell_where(spec.slug)
        return _detach(spec.slug)
    if (age := process_tree.age()) is not None:
        progress.seconds["load"] = round(age, 3)
    try:
        with progress.timed("total"):
            if holder:
                return bottle.run_bottle(spec, chosen, progress, on_ready=holder.begin)
            with questions(ctx, spec) as (tty, on_ready), terminal.modes_undone(active=tty) as status:
                status.append(bottle.run_bottle(spec, chosen, progress, tty=tty, on_ready=on_ready))
                return status[0]
    finally:
        for name, seconds in progress.seconds.items() if timed else ():
            click.echo(f"{name:<8} {seconds:8.2f} s", err=True)


def reject_extra_arguments(ctx: click.Context, extra: tuple[str, ...]) -> None:
    """Reject arguments between PATH and `--`: a command without the dashes."""
    if extra:
        count = "N " if ctx.info_name == "fan" else ""
        raise UsageError(
            f"unexpected {extra[0]!r} after PATH",
            next_step=f"put -- before the command: {ctx.command_path} {count}PATH -- CMD",
        )


def _detach(name: str) -> int:
    with names.lock_name(name):
        pass  # checked before the log of a running bottle would be overwritten
    status = detach.detach(name, sys.argv[1:])
    if not status:
        click.echo(name)
    return status


def _show(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plan.items()}
    rows = [(key, text if plan[key] not in (None, "", []) else "-") for key, text in texts.items()]
    click.echo(table(rows, least=(10,), most=10))


def _check_choices(ctx: click.Context, spec: BottleSpec, *, as_json: bool) -> None:
    """Reject options without effect."""
    if as_json:
        raise UsageError("--json needs --plan, --twin or --prompt")
    for name in () if backend_for(spec.backend, spec.accel).boots_artifact else _OF_ARTIFACTS:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} does not work with --backend docker")
