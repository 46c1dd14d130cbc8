"""`bottle diff`: show a bottle's changes in its clone."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import BinaryIO

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing
from bot_bottle.host.terminal import shows_colours
from bot_bottle.host.text import printable_lines

_HELP = """Show what the bottle NAME changed in its clone, committed or not.

Its commits are also on the branch bottle/NAME of your repository. Of a bottle that still runs, only commits
are shown. On a terminal, control characters are escaped.

\b
Examples:
  bottle diff blue
  bottle diff blue --stat
  bottle diff blue > blue.patch
"""

# colours are git's; other control sequences come from the bottle
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


@click.command("diff", help=_HELP)
@click.argument("name", shell_complete=completing.with_clone)
@click.option("--stat", is_flag=True, help="Print only file names and line counts.")
def command(name: str, stat: bool) -> None:
    """Print the diff, on a terminal with a pager and, where they are wanted, colours."""
    options = ["--stat"] if stat else []
    if sys.stdout.isatty():
        colours = shows_colours()
        options += ["--color=always"] if colours else []
        with manage.diff(name, *options) as stream:
            click.echo_via_pager(_lines(stream), color=colours)
        return
    with manage.diff(name, *options) as stream:
        while data := stream.read(1 << 16):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _lines(stream: BinaryIO) -> Iterator[str]:
    for line in stream:
        yield escape_controls(line.decode("utf-8", "replace"))


def escape_controls(text: str) -> str:
    """Return a text with its colours, and with every other control character made visible."""
    return "".join(
        part if number % 2 else printable_lines(part) for number, part in enumerate(_COLOUR.split(text))
    )
