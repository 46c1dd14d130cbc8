"""A service on this machine's loopback, which bottles may be allowed to reach."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Answer(socketserver.StreamRequestHandler):
    """Answers a line with what it was, as a server of HTTP or of anything else."""

    def handle(self) -> None:
        if line := self.rfile.readline().strip():
            body = b"heard " + line + b"\n"
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@contextmanager
def service() -> Iterator[int]:
    """Serve on a port of this machine's loopback until the block ends."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
