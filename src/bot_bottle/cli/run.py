"""`bottle run`: a Dockerfile to a command in a microVM, and nothing left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bot_bottle import bottle
from bot_bottle.cli import inputs, options
from bot_bottle.errors import UsageError
from bot_bottle.image.oci import Platform
from bot_bottle.vm.terminal import is_terminal

_HELP = """Build PATH's Dockerfile (default: the current folder) and run CMD in a microVM made from it.

CMD replaces the image's ENTRYPOINT and CMD; without it they run. It gets the image's USER, ENV and WORKDIR,
your standard input, output and error, a terminal if you have one, and no network. Its exit status is ours;
100 to 125 are bottle's own. Ctrl-C goes to the command; a second one ends the bottle. Nothing is left behind.

\b
Examples:
  bottle run
  bottle run ~/project -- claude -p 'fix the tests'
  bottle run -f Dockerfile.agent --target dev --build-arg VERSION=3 . -- bash
  echo 'print(1)' | bottle run -q . -- python3 -
  bottle run --image myagent:latest -e DEBUG=1 -u 1000 -w /src -- make test
"""


class _RunCommand(click.Command):
    """Keeps what follows `--` apart: it is the bottle's command, whether or not a PATH stands before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--` and parse what is before it."""
        split = args.index("--") if "--" in args else len(args)
        ctx.obj = tuple(args[split + 1 :])
        return super().parse_args(ctx, args[:split])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Name the command in the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


@click.command("run", cls=_RunCommand, help=_HELP)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="", expose_value=True)
@options.build_options
@click.option("--image", metavar="REF", help="Take an image that the engine holds instead of building one.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Take a docker-save archive or an OCI layout.",
)
@options.bottle_options
@click.option("--name", metavar="NAME", help="Name the bottle (default: one is made up).")
@options.engine_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, extra: tuple[str, ...], **given: Any) -> int:
    """Build, convert, boot, run, and leave nothing."""
    if extra:
        raise UsageError(
            f"what is {extra[0]!r}?", next_step="put -- before the command: bottle run PATH -- CMD"
        )
    _check_platform(given["platform"])
    spec = inputs.spec(ctx, inputs.settings(ctx, ctx.obj))
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    return bottle.run(
        spec,
        engine=given["engine"],
        packer=given["packer"],
        accel=given["accel"],
        progress=progress,
        tty=is_terminal(),
    )


def _check_platform(platform: str | None) -> None:
    if platform is None:
        return
    wanted, here = Platform.parse(platform), Platform.of_this_machine()
    if (wanted.os, wanted.architecture) != (here.os, here.architecture):
        raise UsageError(
            f"a microVM on this machine runs {here}, not {wanted}",
            next_step=f"build for {here}, or use `bottle pack` and run it elsewhere",
        )
