"""A service that gives tokens for a registry, as the distribution's specification of tokens has it."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.serving import running

SERVICE, ISSUER = "registry.test", "tests"


@dataclass
class TokenService:
    """`life` is the seconds for which the next tokens are valid, and may be negative: each uses one, the last
    is used for ever. `asked` has the parameters of each request."""

    key: Path
    users: dict[str, str] = field(default_factory=dict)
    refresh_tokens: list[str] = field(default_factory=list)
    life: list[int] = field(default_factory=lambda: [300])
    stated: int = 300
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    def token(self, user: str, scope: str) -> str:
        """A JSON Web Token in RS256, whose certificate is in its header."""
        life = self.life.pop(0) if len(self.life) > 1 else self.life[0]
        pem = self.key.read_bytes()
        certificate = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
        now = int(time.time())
        kind, name, actions = scope.rsplit(":", 2)[0].partition(":")[0], scope.split(":", 1)[1], ""
        name, _, actions = name.rpartition(":")
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "iat": now - 7200,
            "nbf": now - 7200,
            "exp": now + life,
            "jti": str(len(self.asked)),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        private = serialization.load_pem_private_key(pem, None)
        assert isinstance(private, rsa.RSAPrivateKey)
        return (signed + b"." + _encoded(private.sign(signed, padding.PKCS1v15(), hashes.SHA256()))).decode()

    def answer(self, fields: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(fields)
        user = ""
        if fields.get("refresh_token"):
            user = "token" if fields["refresh_token"] in self.refresh_tokens else ""
        elif found := re.fullmatch("Basic (.+)", authorization):
            name, _, password = base64.b64decode(found[1]).decode().partition(":")
            user = name if password and self.users.get(name) == password else ""
        if not user or fields.get("service") != SERVICE:
            return 401, {"details": "no such user"}
        return 200, {"token": self.token(user, fields["scope"]), "expires_in": self.stated}


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_service(key: Path) -> Iterator[TokenService]:
    """Serve tokens on the loopback; `key` is a file with an RSA key and its certificate."""
    service = TokenService(key)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            fields = parse_qs(body or urlsplit(self.path).query)
            given = {name: values[0] for name, values in fields.items()}
            status, document = service.answer(given, self.headers.get("Authorization", ""))
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_any

    with serving(Handler) as port:
        service.port = port
        yield service


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve requests on a free port of the loopback until the block ends; yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    with running(server):
        yield server.server_address[1]
