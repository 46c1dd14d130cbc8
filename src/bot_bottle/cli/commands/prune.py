"""`bottle prune`: remove what exited bottles left."""

from __future__ import annotations

import click

from bot_bottle.bottle import manage
from bot_bottle.host.text import printable

_HELP = """Remove the logs and clones of exited bottles, and what killed commands left.

A clone with work that exists nowhere else stays, and the reason is printed. Running bottles are left alone.
Artifacts are removed by bottle cache prune.

\b
Examples:
  bottle prune
  bottle prune --dry-run
"""


@click.command("prune", help=_HELP)
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be removed; remove nothing.")
def command(dry_run: bool) -> None:
    """Remove, and print what was removed and what stays."""
    for name, reasons in manage.prune(dry_run=dry_run):
        if reasons:
            click.echo(f"kept {name}: {printable('; '.join(reasons))}")
        else:
            click.echo(f"{'would remove' if dry_run else 'removed'} {name}")
