"""HTTPS servers of the loopback: one that records requests, and one that refreshes tokens."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tests.support.proxied import read_head


def make_certificate(path: Path, *names: str) -> Path:
    """Write a certificate for names, its own authority, and its key to a file."""
    return _make(path, "-newkey ec -pkeyopt ec_paramgen_curve:P-256", names)


def make_rsa_certificate(path: Path) -> Path:
    """Do the same with an RSA key, as signers of tokens have."""
    return _make(path, "-newkey rsa:2048", ("test",))


def _make(path: Path, kind: str, names: tuple[str, ...]) -> Path:
    key = f"openssl req -x509 {kind} -nodes -days 2 -subj /CN=test"
    both = ",".join(f"DNS:{name}" for name in names)
    argv = [*key.split(), "-addext", f"subjectAltName={both}", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


class Site:
    """A server that records heads and bodies, and answers with `status` and `answer`, of the type `kind`."""

    kind = "text/plain"

    def __init__(self, certificate: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate)
        self.requests: list[tuple[str, bytes]] = []
        self.status = 200

    def __call__(self, plain: socket.socket) -> None:
        with self.context.wrap_socket(plain, server_side=True) as plug, plug.makefile("rb") as file:
            while head := read_head(plug):
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                body = file.read(int(length[1])) if length else b""
                if b"chunked" in head.lower():
                    while size := int(file.readline(), 16):
                        body += file.read(size)
                        file.readline()
                    file.readline()
                self.requests.append((head.decode(), body))
                status, answer = self.answer(head, body)
                fields = b"Content-Type: %b\r\nContent-Length: %d" % (self.kind.encode(), len(answer))
                plug.sendall(b"HTTP/1.1 %d X\r\n%b\r\n\r\n%b" % (status, fields, answer))

    def answer(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        return self.status, b""


@dataclass
class Tokens(Site):
    """A token endpoint whose refresh tokens are valid once. `prefix` begins each token that it gives.

    `current` is the refresh token that is valid; `broken` answers instead, if it is set. `before` is called
    before each answer.
    """

    certificate: Path
    current: str
    prefix: str = "canary-e7"
    broken: tuple[int, bytes] | None = None
    before: Callable[[], None] = lambda: None
    given: int = 0
    parameters: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        super().__init__(self.certificate)

    def answer(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        sent = json.loads(body) if b"application/json" in head else dict(parse_qsl(body.decode()))
        self.parameters.append(sent)
        self.before()
        with self.lock:
            if self.broken is not None:
                return self.broken
            if sent.get("grant_type") != "refresh_token" or sent.get("refresh_token") != self.current:
                return 400, b'{"error": "invalid_grant"}'
            self.given += 1
            self.current = f"{self.prefix}-refresh-{self.given}"
            tokens = {
                "access_token": f"{self.prefix}-access-{self.given}",
                "refresh_token": self.current,
                "expires_in": 3600,
                "token_type": "Bearer",
            }
            return 200, json.dumps(tokens).encode()
