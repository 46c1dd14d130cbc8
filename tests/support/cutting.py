"""A TCP relay that cuts a connection, or lets it stand still, where a test says."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.support.serving import running

Way = Literal["up", "down"]


@dataclass
class Cutting:
    """`passed` counts the bytes that went up to the server, and down from it.

    When they reach the first of the `limits` of a way, that is dropped and the connection cut; with `holds`
    it stands still instead, and `standing` is set.
    """

    port: int = 0
    passed: dict[Way, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    limits: dict[Way, list[int]] = field(default_factory=lambda: {"up": [], "down": []})
    holds: bool = False
    standing: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def pump(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes from `source` until it ends, or this is to be cut; end both then."""
        limits = self.limits[way]
        with suppress(OSError):
            while data := source.recv(1 << 16):
                data = data[: limits[0] - self.passed[way]] if limits else data
                target.sendall(data)
                self.passed[way] += len(data)
                if limits and self.passed[way] >= limits[0]:
                    limits.pop(0)
                    if self.holds:
                        self.standing.set()
                        self.ended.wait()
                    break
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(upstream: int) -> Iterator[Cutting]:
    """Relay to a port of the loopback until the block ends."""
    relay = Cutting()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", upstream)) as server:
                up = threading.Thread(target=relay.pump, args=("up", self.request, server), daemon=True)
                up.start()
                relay.pump("down", server, self.request)
                up.join()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    relay.port = server.server_address[1]
    try:
        with running(server):
            yield relay
    finally:
        relay.ended.set()
