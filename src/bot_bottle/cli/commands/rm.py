"""`bottle rm`: remove what an exited bottle left."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing
from bot_bottle.errors import WorkspaceError
from bot_bottle.host.text import printable

_HELP = """Remove the logs and clones of exited bottles, and their refs beside your branches.

Refused (status 116) if that would lose work: commits that are on none of your branches or tags, uncommitted
changes that were not applied, repositories inside the clone. Each is named, with the command that keeps it.
The branch bottle/NAME is yours and stays.

\b
Examples:
  bottle rm blue
  bottle rm --force blue green
"""


@click.command("rm", help=_HELP)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completing.left)
@click.option("-f", "--force", is_flag=True, help="Remove even if work would be lost.")
def command(names: tuple[str, ...], force: bool) -> None:
    """Remove each, and print its name."""
    for name in names:
        lost = manage.remove(name, force=force)
        if lost:
            raise WorkspaceError(
                f"{name} has commits or changes that exist nowhere else",
                why="\n".join(printable(line) for line in lost),
                next_step=f"save what you need; to remove it all the same: bottle rm --force {name}",
            )
        click.echo(name)
