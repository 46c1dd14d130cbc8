"""`bottle forward`: push on what a bottle has pushed and the user holds."""

from __future__ import annotations

import click

from bot_bottle.bottle import pushes
from bot_bottle.cli import complete_names as completing
from bot_bottle.errors import UsageError
from bot_bottle.git.held import Held
from bot_bottle.host.text import printable, printable_lines

_HELP = """Push the branches that the bottle NAME has pushed, and that are held, to their remotes.

Pushes are held where bottle.toml says hold = true in [git]. They are pushed with your own git and
credentials, all branches of a remote or none, and never by force.

\b
Examples:
  bottle forward --dry-run blue
  bottle forward blue
  bottle forward --drop blue
"""


@click.command("forward", help=_HELP)
@click.argument("name", shell_complete=completing.with_held)
@click.option("--dry-run", is_flag=True, help="Only print what is held, with its commits.")
@click.option("--drop", is_flag=True, help="Drop what is held instead.")
def command(name: str, *, dry_run: bool, drop: bool) -> None:
    """Push it on, and print what was pushed."""
    if dry_run and drop:
        raise UsageError("--dry-run and --drop exclude each other")
    if dry_run or drop:
        for each in pushes.drop(name) if drop else pushes.list_held(name):
            _print(each)
        return
    for remote, branches, said in pushes.forward(name):
        if said:
            click.echo(printable_lines(said), err=True)
        for branch, commit in branches.items():
            click.echo(f"{remote.name} {printable(branch)} {commit[:12]} {printable(remote.shown)}")


def _print(held: Held) -> None:
    click.echo(f"{held.remote} {printable(held.branch)} {held.commit[:12]}")
    for line in held.commits:
        click.echo(f"    {line}")
