"""`bottle completion`: the script that makes a shell complete bottle's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_HELP = """Print a completion script for SHELL.

\b
Examples:
  bottle completion bash > /etc/bash_completion.d/bottle
  bottle completion zsh > "${fpath[1]}/_bottle"
  bottle completion fish > ~/.config/fish/completions/bottle.fish
"""


@click.command("completion", help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script."""
    from bot_bottle.cli.main import bottle

    maker = get_completion_class(shell)
    assert maker is not None  # noqa: S101 - click knows these three
    click.echo(maker(bottle, {}, "bottle", "_BOTTLE_COMPLETE").source())
