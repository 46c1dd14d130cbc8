"""`bottle apply`: merge a bottle's work."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing
from bot_bottle.host.text import printable

_HELP = """Merge what the bottle NAME changed in its clone into your working tree.

Commits and uncommitted changes arrive together, neither committed nor staged. What you changed meanwhile is
kept; if both changed the same lines, nothing is written and the files are named (status 117). To keep the
bottle's commits instead: git merge bottle/NAME.

\b
Examples:
  bottle apply blue
  bottle diff blue && bottle apply blue
"""


@click.command("apply", help=_HELP)
@click.argument("name", shell_complete=completing.with_clone)
def command(name: str) -> None:
    """Merge, and print the names that changed."""
    for path in manage.apply(name):
        click.echo(printable(path))
