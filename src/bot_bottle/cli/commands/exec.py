"""`bottle exec`: run another command in a running bottle."""

from __future__ import annotations

from typing import Any

import click

from bot_bottle.bottle import manage
from bot_bottle.bottle.spec import parse_env
from bot_bottle.cli import complete_names as completing
from bot_bottle.cli import options
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import Progress
from bot_bottle.host.terminal import is_terminal

_HELP = """Run another command in the running bottle NAME, on your own streams; its exit status is ours.

It runs like the bottle's own command: the same user, folder and variables, but without its secrets. A bottle
with --accel nested cannot run another command.

\b
Examples:
  bottle exec blue git log --oneline
  bottle exec -u 0 -e DEBUG=1 blue -- ps
"""


class CommandAfterName(click.Command):
    """Separates the arguments after NAME: the command, with or without `--` before it, as in docker exec."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split after the name, or at a `--` after options that follow it, and parse the first part."""
        parser = self.make_parser(ctx)
        parser.allow_interspersed_args = False
        _, rest, _ = parser.parse_args([*args])
        words = rest
        before = args[: len(args) - len(words)]
        if words and words[0].startswith("-"):
            split = words.index("--") if "--" in words else len(words)
            before += words[:split]
            words = words[split + 1 :]
        ctx.obj = tuple(words)
        return super().parse_args(ctx, before)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line with the command."""
        return [*super().collect_usage_pieces(ctx), "CMD..."]


@click.command("exec", cls=CommandAfterName, help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable of the command.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", default="", metavar="FOLDER", help="Run in this folder.")
@options.docker_compat_flags
@click.pass_context
def command(ctx: click.Context, /, name: str, env: tuple[str, ...], **given: Any) -> int:
    """Run it."""
    if not ctx.obj:
        raise UsageError(
            "no command is given", next_step=f"bottle exec {name} COMMAND; or bottle shell {name}"
        )
    return manage.execute(
        name, ctx.obj, Progress("plain"), env=dict(parse_env(env)), tty=is_terminal(), **given
    )
