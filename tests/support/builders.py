"""A builder of buildx that is not docker's own: the BuildKit inside an engine, at a socket of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# docker's API hands the connection over to its BuildKit
_UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


@contextmanager
def remote_builder(docker_host: str, path: Path) -> Iterator[str]:
    """Serve an engine's BuildKit at a socket, and give the address that `--driver remote` takes."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as connections:
        listener.bind(str(path))
        listener.listen(20)

        def serve() -> None:
            with suppress(OSError):  # the listener was shut down
                while True:
                    near = connections.enter_context(listener.accept()[0])
                    far = connections.enter_context(socket.socket(socket.AF_UNIX))
                    far.connect(docker_host.removeprefix("unix://"))
                    far.sendall(_UPGRADE)
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += far.recv(1)
                    assert b" 101 " in head
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=_pour, args=ends, daemon=True).start()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            yield f"unix://{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
