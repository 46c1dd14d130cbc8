"""Questions about refused connections: the proxy asks, and the user answers on a terminal.

The answering process listens on a unix socket. For each question the proxy connects, sends `{"host", "port"}`
as a line of JSON, and reads `{"answer"}` as another: `once`, `always` or `no`. Without an answer it is `no`.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from bot_bottle.errors import SpecError
from bot_bottle.host.locks import try_lock_file
from bot_bottle.host.unix_sockets import bind, short_path

Answer = Literal["once", "always", "no"]

SECONDS = 60.0  # for an answer

_MOST = 16  # questions at a time; what is refused meanwhile is not asked about
_REMEMBERED = 1000  # hosts that were answered with `no`; after so many, nothing is asked any more
_LINE = 4096  # bytes of a question or an answer
_LATE = 5.0  # seconds in which a question has to be read
_POLL = 0.2  # seconds


class Questions:
    """The proxy's end. The same host and port are only asked about once at a time, and not after a `no`.

    `path` is the socket of the answering process; without one the answer is always `no`.
    """

    def __init__(self, path: Path | None, seconds: float = SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._waiting: dict[tuple[str, int], asyncio.Task[Answer]] = {}
        self._denied: set[tuple[str, int]] = set()

    async def ask(self, host: str, port: int) -> Answer:
        """Return the user's answer; it is `no` if there is none in time, or nobody to ask."""
        place = (host, port)
        if self._path is None or place in self._denied or len(self._denied) >= _REMEMBERED:
            return "no"
        if (waiting := self._waiting.get(place)) is None:
            if len(self._waiting) >= _MOST:
                return "no"
            waiting = self._waiting[place] = asyncio.create_task(self._ask(self._path, host, port))
            waiting.add_done_callback(lambda _: self._waiting.pop(place, None))
        return await asyncio.shield(waiting)  # others may wait for it too

    async def _ask(self, path: Path, host: str, port: int) -> Answer:
        writer = None
        try:
            async with asyncio.timeout(self._seconds):
                with short_path(path.parent) as folder:
                    reader, writer = await asyncio.open_unix_connection(f"{folder}/{path.name}", limit=_LINE)
                writer.write(json.dumps({"host": host, "port": port}).encode() + b"\n")
                answer = _answer(await reader.readline())
        except (
            OSError,
            ValueError,
            RecursionError,
        ):  # also TimeoutError
            return "no"
        finally:
            if writer is not None:
                writer.close()
        if answer == "no":
            self._denied.add((host, port))
        return answer or "no"


def _answer(line: bytes) -> Answer | None:
    """Return the answer in a line; None if it has none. Raises ValueError."""
    document = json.loads(line)
    answer = document.get("answer") if isinstance(document, dict) else None
    return answer if answer in get_args(Answer) else None


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
                listener.listen(_MOST)
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
            more = plug.recv(_LINE - len(line))
            if not more:
                return None
            line += more
        document = json.loads(line)
        if isinstance(document["host"], str) and type(document["port"]) is int:
            return Question(plug, document["host"], document["port"])
    return None
