"""`bottle shell`: open a shell in a running bottle."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing
from bot_bottle.host.progress import Progress
from bot_bottle.host.terminal import is_terminal

_HELP = """Open a shell in the running bottle NAME: bash if the image has it, else sh.

\b
Examples:
  bottle shell blue
  bottle shell -u 0 blue
"""

_SHELL = ("sh", "-c", "exec $(command -v bash || echo sh)")


@click.command("shell", help=_HELP)
@click.argument("name", shell_complete=completing.running)
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as USER.")
def command(name: str, user: str) -> int:
    """Open the shell."""
    return manage.execute(name, _SHELL, Progress("plain"), user=user, env={}, tty=is_terminal())
