"""Unix sockets in folders of any length: a socket's own path has 107 bytes at most (unix(7), sun_path)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def connect(folder: Path, name: str) -> socket.socket:
    """Connect to a socket in a folder. Raises OSError."""
    plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(folder) as place:
            plug.connect(f"{place}/{name}")
    except OSError:
        plug.close()
        raise
    return plug


def bind(listener: socket.socket, folder: Path, name: str) -> None:
    """Bind a socket to a name in a folder. Raises OSError."""
    with short_path(folder) as place:
        listener.bind(f"{place}/{name}")


@contextmanager
def listening_for_all(folder: Path, name: str) -> Iterator[socket.socket]:
    """Yield a listening socket to which other users may connect who can enter the folder. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as listener:
        bind(listener, folder, name)
        (folder / name).chmod(0o666)
        listener.listen(1)
        yield listener


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Yield a short path of a folder, through /proc, which is valid in this process until the block ends."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
