"""git's pre-receive hook in a quarantine: it asks the server's process, and passes the answer on.

The hook is a process that git receive-pack starts while the received objects are in its own temporary store
(githooks(5), git-receive-pack(1)). What it writes on standard error is shown by the git that pushes. It has
to work without the package, as fast as Python starts.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from msgspec import Struct

FOLDER, SOCKET = "hooks", "hook"

_LARGEST = 1 << 20  # bytes that a hook sends: the references of a push
_PREFIX = "bottle: "

_PROGRAM = """\
import json, os, socket, sys

folder, name = os.path.split(sys.argv[1])
where = os.path.abspath(os.environ.get("GIT_DIR", "."))
objects = {
    key: os.path.abspath(os.environ[key]) if key == "GIT_OBJECT_DIRECTORY" else os.environ[key]
    for key in ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES") if key in os.environ
}
updates = sys.stdin.buffer.read()
os.chdir(folder)  # the path of a socket has 107 bytes at most
with socket.socket(socket.AF_UNIX) as server:
    server.connect(name)
    server.sendall(json.dumps([where, objects, updates.decode("latin-1")]).encode())
    server.shutdown(socket.SHUT_WR)
    answer = b""
    while data := server.recv(1 << 16):
        answer += data
sys.stderr.buffer.write(answer[1:])
sys.stderr.flush()
sys.exit(0 if answer[:1] == b"0" else 1)
"""


class Question(Struct, frozen=True):
    """A push that git has received: its repository, the variables that name object stores, the updates."""

    repository: Path
    objects: dict[str, str]
    updates: bytes


Answer = tuple[bool, list[str]]  # whether the push is accepted, and lines for the git that pushes


def write_hook(folder: Path) -> Path:
    """Write the hook into a folder of the server and return the folder of hooks."""
    hooks = folder / FOLDER
    hooks.mkdir(mode=0o700, exist_ok=True)
    command = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _PROGRAM, str(folder / SOCKET)]
    path = hooks / "pre-receive"
    path.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    path.chmod(0o700)
    return hooks


@contextmanager
def answering(answer: Callable[[Question], Answer]) -> Iterator[None]:
    """Answer hooks until the block ends. The socket is made in the current folder, by its name."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET)
        listener.listen(8)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # it is closed
                Thread(target=_serve, args=(connection, answer), daemon=True).start()

        Thread(target=serve, daemon=True).start()
        yield


def _serve(connection: socket.socket, answer: Callable[[Question], Answer]) -> None:
    with connection, suppress(OSError):
        accepted, lines = False, ["the push cannot be checked"]
        try:
            where, objects, updates = json.loads(_received(connection))
            accepted, lines = answer(Question(Path(where), objects, updates.encode("latin-1")))
        finally:
            text = "".join(f"{_PREFIX}{line}\n" for line in lines)
            connection.sendall((b"0" if accepted else b"1") + text.encode("utf-8", "replace"))


def _received(connection: socket.socket) -> bytes:
    data = b""
    while len(data) <= _LARGEST and (more := connection.recv(1 << 16)):
        data += more
    if len(data) > _LARGEST:
        raise ValueError("too many references")
    return data
