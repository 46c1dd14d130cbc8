"""The answers of the user to a bottle's questions, on a terminal."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from bot_bottle.bottle import names
from bot_bottle.bottle import network as egress
from bot_bottle.cli.asking import own_terminal
from bot_bottle.errors import BottleError
from bot_bottle.host import terminal
from bot_bottle.host.text import printable
from bot_bottle.host.threads import working_beside
from bot_bottle.network.proposals import entry_for
from bot_bottle.network.questions import Answer, Question, listening, received

_ANSWERS: dict[str, Answer] = {"y": "once", "yes": "once", "once": "once", "a": "always", "always": "always"}


def answer_questions(name: str) -> None:
    """Answer a running bottle's questions on this terminal until it exits. Raises SpecError, UsageError."""
    path = egress.questions(name)
    with own_terminal() as handle, listening(path) as listener:
        click.echo(f"bottle: {name} asks here before it is refused a connection; Ctrl-C stops this", err=True)
        for question in received(listener, lambda: names.is_running(name)):
            _reply(name, handle, question)


@contextmanager
def answering(name: str, handle: int) -> Iterator[None]:
    """Answer a bottle's questions on a terminal until the block ends."""
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
