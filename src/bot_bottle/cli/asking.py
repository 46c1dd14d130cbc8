"""`--ask`: on a terminal, the user is asked about what a bottle would be refused."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from bot_bottle.bottle import names
from bot_bottle.bottle import network as egress
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.errors import BottleError, UsageError
from bot_bottle.host import terminal
from bot_bottle.host.text import printable
from bot_bottle.host.threads import working_beside
from bot_bottle.network.proposals import entry_for
from bot_bottle.network.questions import Answer, Question, listening, received

_ANSWERS: dict[str, Answer] = {"y": "once", "yes": "once", "once": "once", "a": "always", "always": "always"}

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
    with _own_terminal() as handle, ExitStack() as stack:
        if is_for_command(ctx):
            tell_where(spec.slug)
            yield terminal.is_terminal(), lambda: None
            return
        if sys.stdin.isatty():
            stack.enter_context(_empty_input())  # what is typed is for us
        yield False, lambda: stack.enter_context(_answering(spec.slug, handle))


def is_for_command(ctx: click.Context) -> bool:
    """Return whether the command is to have the terminal even though bottle asks (`-t`)."""
    return ctx.get_parameter_source("tty") is ParameterSource.COMMANDLINE


def tell_where(name: str) -> None:
    """Say where the questions are answered. Raises UsageError where there is no terminal for it."""
    with _own_terminal():
        click.echo(f"bottle: to be asked, run in another terminal: bottle allow --ask {name}", err=True)


def answer_questions(name: str) -> None:
    """Answer a running bottle's questions on this terminal until it exits. Raises SpecError, UsageError."""
    path = egress.questions(name)
    with _own_terminal() as handle, listening(path) as listener:
        click.echo(f"bottle: {name} asks here before it is refused a connection; Ctrl-C stops this", err=True)
        for question in received(listener, lambda: names.is_running(name)):
            _reply(name, handle, question)


@contextmanager
def _own_terminal() -> Iterator[int]:
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


@contextmanager
def _answering(name: str, handle: int) -> Iterator[None]:
    with listening(egress.questions(name)) as listener:

        def serve(over: threading.Event) -> None:
            for question in received(listener, lambda: not over.is_set()):
                _reply(name, handle, question, over.is_set)

        with working_beside(serve):
            yield


def _reply(name: str, handle: int, question: Question, is_over: Callable[[], bool] = lambda: False) -> None:
    """Ask about one connection, and send the answer."""
    place = entry_for(question.host, question.port)
    shown = printable(place, limit=300)  # the bottle decided what it tries to reach
    text = f"bottle: {name} asks for {shown}: yes once (y), always in this bottle (a), or no (n)? [n] "
    line = terminal.ask_line(handle, text, lambda: question.lasts() and not is_over())
    if line is None:
        _say(handle, f"{shown} was refused: there was no answer")
        return
    answer = _ANSWERS.get(line, "no")
    if answer == "always":
        try:
            egress.allow(name, [place])
        except (BottleError, OSError, ValueError) as error:
            answer = "once"
            _say(handle, f"{shown} is only allowed once: {printable(str(error), limit=300)}")
    question.answer(answer)


def _say(handle: int, text: str) -> None:
    try:
        if os.tcgetpgrp(handle) == os.getpgrp():
            os.write(handle, f"bottle: {text}\n".encode())
    except OSError:  # it was closed
        pass
