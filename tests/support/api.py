"""An API on this machine's loopback, at an address taken for the internet, with names and a certificate.

Nothing leaves the machine: the one resolver that is asked is the one here.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.certificates import certify

ADDRESS = "198.51.100.77"  # of a range for documentation (RFC 5737)
NAMES = ("api.example.org", "other.example.org")
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n"


@dataclass
class Api:
    """What it was sent, and the certificate of its authority."""

    authority: Path
    seen: list[bytes] = field(default_factory=list)


@contextmanager
def api(folder: Path) -> Iterator[Api]:
    """Serve HTTPS, and the names, until the block ends."""
    made = Api(folder / "ca.pem")
    certify(folder, *(f"DNS:{name}" for name in NAMES))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    with ExitStack() as stack:
        subprocess.run(["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"], check=True, timeout=10)
        stack.callback(
            subprocess.run, ["ip", "addr", "del", f"{ADDRESS}/32", "dev", "lo"], check=True, timeout=10
        )
        server = stack.enter_context(closing(socket.create_server((ADDRESS, 443))))
        names = stack.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        names.bind((ADDRESS, 53))
        threads = [
            threading.Thread(target=_serve, args=(server, context, made), daemon=True),
            threading.Thread(target=_resolve, args=(names,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            names.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(10)


def _serve(server: socket.socket, context: ssl.SSLContext, made: Api) -> None:
    while True:
        try:
            plain, _ = server.accept()
        except OSError:
            return
        plain.settimeout(20)
        with closing(plain), suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
            made.seen.append(secure.recv(65536))
            secure.sendall(_ANSWER)


def _resolve(names: socket.socket) -> None:
    """Answer for every name: with the address, or that there is no other."""
    while True:
        try:
            query, sender = names.recvfrom(512)
        except OSError:
            return
        if not query:
            return
        end = query.index(b"\0", 12) + 5
        is_ipv4 = query[end - 4 : end - 2] == b"\0\1"
        head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_ipv4 else b"\0\0") + bytes(4) + query[12:end]
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(ADDRESS) if is_ipv4 else b""
        names.sendto(head + answer, sender)
