"""Questions about refused connections, which a proxy asks (see `asking`) and the user answers on a terminal.

The answering process listens on a unix socket. For each question the proxy connects, sends `{"host", "port"}`
as a line of JSON, and reads `{"answer"}` as another: `once`, `always` or `no`. Without an answer it is `no`.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from bot_bottle.errors import SpecError
from bot_bottle.host.locks import try_lock_file
from bot_bottle.host.unix_sockets import bind

Answer = Literal["once", "always", "no"]

ASKED = "allowed when asked"  # in the log in place of a rule
MOST = 16  # questions at a time
LINE = 4096  # bytes of a question or an answer

_LATE = 5.0  # seconds in which a question has to be read
_POLL = 0.2  # seconds


class Question:
    """A question that waits for its answer."""

    def __init__(self, plug: socket.socket, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._plug = plug

    def lasts(self) -> bool:
        """Return whether the proxy still waits for the answer."""
        poll = select.poll()
        poll.register(self._plug, select.POLLIN)
        return not poll.poll(0)  # it sends nothing more, so there could only be its end

    def answer(self, answer: Answer) -> None:
        """Send the answer."""
        with suppress(OSError):
            self._plug.sendall(json.dumps({"answer": answer}).encode() + b"\n")


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen for questions at a path, which is removed when the block ends. Raises SpecError, OSError.

    Only one process can; what one that was killed has left there is replaced.
    """
    with try_lock_file(path.with_name(f"{path.name}.lock")) as free:
        if not free:
            raise SpecError("another terminal already answers this bottle's questions")
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            bind(listener, path.parent, path.name)  # in a folder that only the user can enter
            try:
                listener.listen(MOST)
                yield listener
            finally:
                path.unlink(missing_ok=True)


def received(listener: socket.socket, lasts: Callable[[], bool]) -> Iterator[Question]:
    """Yield questions, one after the other, for as long as `lasts` returns true."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while lasts():
        if poll.poll(_POLL * 1000):
            plug, _ = listener.accept()
            with plug:
                if (question := _question(plug)) is not None and question.lasts():
                    yield question


def _question(plug: socket.socket) -> Question | None:
    """Read a question; return None for anything else."""
    plug.settimeout(_LATE)
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        line = b""
        while not line.endswith(b"\n"):
            more = plug.recv(LINE - len(line))
            if not more:
                return None
            line += more
        document = json.loads(line)
        if isinstance(document["host"], str) and type(document["port"]) is int:
            return Question(plug, document["host"], document["port"])
    return None
