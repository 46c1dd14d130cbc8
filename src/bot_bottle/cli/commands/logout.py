"""`bottle logout`: forget a login."""

from __future__ import annotations

import click

from bot_bottle.errors import SecretError
from bot_bottle.login import records

_HELP = """Forget the login of the agent NAME: bottles that start from now on do not use it.

An API key that bottle stored is removed. What the agent has on this machine stays, as does an entry of your
keychain that you named. Bottles that run keep the value until they exit.

\b
Examples:
  bottle logout claude
  bottle logout codex
"""


@click.command("logout", help=_HELP)
@click.argument("name")
def command(name: str) -> None:
    """Remove what was stored."""
    if not records.remove(name):
        raise SecretError(f"there is no login {name}", next_step="see bottle login")
    click.echo(f"{name}: forgotten")
