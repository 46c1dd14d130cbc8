"""`--ask`: on a terminal, the user is asked about what a bottle would be refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.errors import UsageError
from bot_bottle.host import terminal

OnReady = Callable[[], None]


@contextmanager
def questions(ctx: click.Context, spec: BottleSpec) -> Iterator[tuple[bool, OnReady]]:
    """Answer a bottle's questions until the block ends, if it has any.

    Yield whether its command gets the terminal, and a function to call right before the command starts.
    Raises UsageError where there is no terminal.
    """
    if not spec.ask:
        yield terminal.is_terminal(), lambda: None
        return
    with own_terminal() as handle, ExitStack() as stack:
        if is_for_command(ctx):
            tell_where(spec.slug)
            yield terminal.is_terminal(), lambda: None
            return
        if sys.stdin.isatty():
            stack.enter_context(_empty_input())  # what is typed is for us
        from bot_bottle.cli.answering import answering  # only here: few bottles ask

        yield False, lambda: stack.enter_context(answering(spec.slug, handle))


def is_for_command(ctx: click.Context) -> bool:
    """Return whether the command is to have the terminal even though bottle asks (`-t`)."""
    return ctx.get_parameter_source("tty") is ParameterSource.COMMANDLINE


def tell_where(name: str) -> None:
    """Say where the questions are answered. Raises UsageError where there is no terminal for it."""
    with own_terminal():
        click.echo(f"bottle: to be asked, run in another terminal: bottle allow --ask {name}", err=True)


@contextmanager
def own_terminal() -> Iterator[int]:
    """Yield a descriptor of our own terminal. Raises UsageError where there is none."""
    handle = terminal.open_own()
    if handle is None:
        raise UsageError(
            "--ask needs a terminal",
            why="without one nobody can be asked",
            next_step="allow what is needed with --allow; bottle learn says what that is",
        )
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _empty_input() -> Iterator[None]:
    """Replace standard input by an empty one until the block ends."""
    before = os.dup(0)
    try:
        with Path(os.devnull).open() as nothing:
            os.dup2(nothing.fileno(), 0)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
