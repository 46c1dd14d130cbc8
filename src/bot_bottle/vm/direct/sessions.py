"""Commands of other processes in a guest: a server in the bottle's process, and its clients.

A client asks for a session on a unix socket in the machine's folder, connects to that session's ports
itself, and then sends what to run. When it goes away, its command is killed. Messages are lines of JSON.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bot_bottle.errors import BootError, BottleError, SpecError
from bot_bottle.host.unix_sockets import bind, connect
from bot_bottle.vm.direct.machine import Kind, Machine, MachineSession

SOCKET = "sessions.sock"

_LARGEST = 8 << 20  # bytes of a message; variables are 1 MiB at most, and JSON escapes them
_POLL = 0.2  # seconds

Prepare = Callable[[Mapping[str, Any]], bytes]
"""Makes a command's document of a client's request. Raises BottleError."""


@contextmanager
def served(machine: Machine, prepare: Prepare) -> Iterator[None]:
    """Run commands of other processes of this user in a guest until the block ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        bind(listener, machine.folder, SOCKET)
        listener.listen()
        threading.Thread(target=_accept, args=(listener, machine, prepare), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, machine: Machine, prepare: Prepare) -> None:
    with suppress(OSError):
        while True:
            plug, _ = listener.accept()
            threading.Thread(target=_serve, args=(plug, machine, prepare), daemon=True).start()


def _serve(plug: socket.socket, machine: Machine, prepare: Prepare) -> None:
    with suppress(OSError, ValueError, KeyError, TypeError), plug, plug.makefile("rb") as lines:
        try:
            with machine.session(terminal=bool(_receive(lines)["terminal"])) as session:
                _send(plug, {"session": session.number})
                request = _receive(lines)
                session.start(_kind(request), prepare(request), str(request["mark"]))
                threading.Thread(target=_obey, args=(lines, session), daemon=True).start()
                while (status := session.wait(_POLL)) is None:
                    pass
                _send(plug, {"status": status})
                while session.wait_free(_POLL) is None and plug.fileno() >= 0:
                    pass
        except BottleError as error:
            _send(plug, {"error": error.message, "why": error.why, "next_step": error.next_step})


def _obey(lines: BinaryIO, session: MachineSession) -> None:
    """Do what the client asks while its command runs; kill the command when the client goes away."""
    with suppress(OSError, ValueError, KeyError, TypeError, BottleError):
        while message := _receive(lines):
            match message["do"]:
                case "signal":
                    session.signal(int(message["signal"]))
                case "resize":
                    session.resize(int(message["rows"]), int(message["columns"]))
                case "cut":
                    session.cut()
    with suppress(OSError, BottleError):
        session.kill()


def _kind(request: Mapping[str, Any]) -> Kind:
    return "tty" if request["size"] is not None else "run"


def _send(plug: socket.socket, message: Mapping[str, Any]) -> None:
    plug.sendall(json.dumps(message).encode() + b"\n")


def _receive(lines: BinaryIO) -> dict[str, Any]:
    """Return the next message; an empty one at the end of the connection."""
    line = lines.readline(_LARGEST)
    message = json.loads(line) if line else {}
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


class RemoteSession:
    """A session of a guest of another process. Made by `remote_session`."""

    def __init__(self, plug: socket.socket, request: Mapping[str, Any]) -> None:
        self._plug = plug
        self._lines = plug.makefile("rb")
        self._request = request
        self._answer: dict[str, Any] | None = None
        self._news = threading.Condition()
        self._tell({"terminal": request["size"] is not None})
        self.number = int(self._read()["session"])

    def _read(self) -> dict[str, Any]:
        try:
            message = _receive(self._lines)
        except (OSError, ValueError):
            message = {}
        if not message:
            raise BootError("the bottle ended before the command did")
        if "error" in message:
            raise SpecError(
                str(message["error"]), why=str(message["why"]), next_step=str(message["next_step"])
            )
        return message

    def start(self, kind: Kind, data: bytes, mark: str) -> None:
        """Start the command that was asked for, whose outputs end with the mark."""
        del kind, data  # the bottle's process makes the document
        _send(self._plug, {**self._request, "mark": mark})
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            answer = self._read()
        except BottleError as error:
            answer = {"failure": error}
        with self._news:
            self._answer = answer
            self._news.notify_all()

    def wait(self, timeout: float | None) -> int | None:
        """Return the command's exit status, after `timeout` seconds at most, or None while it runs."""
        with self._news:
            self._news.wait_for(lambda: self._answer is not None, timeout)
            if self._answer is None:
                return None
            if "failure" in self._answer:
                raise self._answer["failure"]
            return int(self._answer["status"])

    def signal(self, signum: int) -> None:
        """Send a signal to the command and what it has started."""
        self._tell({"do": "signal", "signal": signum})

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the command's terminal."""
        self._tell({"do": "resize", "rows": rows, "columns": columns})

    def cut(self) -> None:
        """End the output of a command that has exited and left other processes with its pipes."""
        self._tell({"do": "cut"})

    def _tell(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the bottle has ended, which `wait` reports
            _send(self._plug, message)


@contextmanager
def remote_session(folder: Path, request: Mapping[str, Any]) -> Iterator[RemoteSession]:
    """Yield a session for a command in the guest of another process, killed with the block.

    `request` has `command`, `env`, `user`, `workdir` and `size` (of the terminal, or None). Raises SpecError
    when the bottle does not run, or refuses.
    """
    with ExitStack() as stack:
        try:
            plug = stack.enter_context(connect(folder, SOCKET))
        except OSError as error:
            raise SpecError("the bottle is not running", why=str(error), next_step="see bottle ls") from error
        yield RemoteSession(plug, request)
