"""`bottle exec`: another command in a running bottle."""

from __future__ import annotations

from typing import Any

import click

from bot_bottle.bottle import manage
from bot_bottle.bottle.spec import parse_env
from bot_bottle.cli import complete_names as completing
from bot_bottle.cli import options
from bot_bottle.cli.commands.run import CommandAfterDashes, reject_extra_arguments
from bot_bottle.errors import UsageError
from bot_bottle.host.terminal import is_terminal

_HELP = """Run another command in the running bottle NAME, on your own streams; its exit status is ours.

It runs as the bottle's own command does: the same user, the same folder, the image's variables. A bottle on
an emulated host takes none.

\b
Examples:
  bottle exec blue -- git log --oneline
  bottle exec -u 0 -e DEBUG=1 blue -- ps
"""


@click.command("exec", cls=CommandAfterDashes, help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="", expose_value=True)
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable of the command.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", default="", metavar="FOLDER", help="Run in this folder.")
@options.docker_compat_flags
@click.pass_context
def command(
    ctx: click.Context, /, name: str, extra: tuple[str, ...], env: tuple[str, ...], **given: Any
) -> int:
    """Run it."""
    reject_extra_arguments(extra)
    if not ctx.obj:
        raise UsageError(
            "no command is given", next_step=f"bottle exec {name} -- COMMAND; or bottle shell {name}"
        )
    return manage.execute(name, ctx.obj, env=dict(parse_env(env)), tty=is_terminal(), **given)
