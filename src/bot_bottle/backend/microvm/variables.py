"""A bottle's variables for commands that other processes run in it: on a socket, so that no file has them.

smolvm gives a command the image's variables alone, and the bottle's are nobody's but its process's.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bot_bottle.errors import SpecError
from bot_bottle.host import paths
from bot_bottle.host.unix_sockets import bind, connect

_SECONDS = 10.0


@contextmanager
def variables_served(slug: str, env: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Hand out a bottle's variables to other processes of this user until the block ends.

    `folder` is that of the run, which nobody else can enter.
    """
    data = json.dumps(dict(env)).encode()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                plug, _ = listener.accept()
                with suppress(OSError), plug:
                    plug.settimeout(_SECONDS)
                    plug.sendall(data)

    with socket.socket(socket.AF_UNIX) as listener:
        bind(listener, folder, _name(slug))
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def read_variables(slug: str) -> dict[str, str]:
    """Return the variables of a bottle that runs. Raises SpecError."""
    for path in paths.runs_dir().glob(f"run-*/{_name(slug)}"):
        try:
            with connect(path.parent, path.name) as plug, plug.makefile("rb") as file:
                plug.settimeout(_SECONDS)
                return {str(name): str(value) for name, value in json.loads(file.read()).items()}
        except (OSError, ValueError):
            continue  # a killed bottle of this name left it
    raise SpecError(f"the bottle {slug} is not running", next_step="see bottle ls")


def _name(slug: str) -> str:
    return f"variables-{slug}.sock"
