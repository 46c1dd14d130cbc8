"""A listener on this machine's loopback, which shows whether a bottle gets there."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# below those that connections come from (ip(7), ip_local_port_range): none takes one by itself
PORTS = range(10_000, 30_000)


@contextmanager
def canary() -> Iterator[int]:
    """Give a port of this machine's loopback that answers, for the time of the block.

    It is none that connections come from by themselves: one of those may meet itself where nobody listens
    (tcp(7) knows no difference), and would look like an answer.
    """
    with socket.socket() as listener:
        while True:
            port = secrets.choice(PORTS)
            with suppress(OSError):  # taken
                listener.bind(("127.0.0.1", port))
                break
        listener.listen()
        yield port
