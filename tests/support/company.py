"""A company's network: a proxy with a password, authorities, a resolver; and what a bottle in it reaches."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.bottle import Bottle
from tests.support.dns_server import dns_server
from tests.support.proxied import read_head, server
from tests.support.world import furnish

USER = "Basic bWU6YS1jYW5hcnk6cGFzcw=="  # me:a-canary:pass
ANSWERS = {"moved.example.org": ["127.0.0.1"], "clouded.example.org": ["10.1.2.3"]}
SCRIPT = """
curl -sS -H "X-Key: $KEY" https://api.example.org/read
curl -sS -H "X-Key: none" https://other.example.org/unread
curl -sS https://moved.example.org:$1/direct
curl -sS https://clouded.example.org/ 2>&1 | tail -1
env | grep -c canary
"""


@dataclass
class Company:
    """Servers behind a proxy, and what that was asked."""

    folder: Path
    proxy: int = 0
    direct: int = 0
    heads: list[str] = field(default_factory=list)

    def answer(self, plug: socket.socket) -> None:
        """Answer a request with its host and key; the certificate is one of the company's."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        with context.wrap_socket(plug, server_side=True) as secure:
            head = read_head(secure).decode()
            key = re.search(r"(?im)^x-key: (.*)\r$", head)
            host = re.search(r"(?im)^host: (.*)\r$", head)
            assert host
            body = f"{host[1]} {key[1] if key else ''}\n"
            secure.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def lead(self, plug: socket.socket) -> None:
        """Be the proxy: every name is that of the servers."""
        head = read_head(plug).decode()
        self.heads.append(head)
        if f"Proxy-Authorization: {USER}\r\n" not in head:
            plug.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        plug.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.direct)) as out:
            back = threading.Thread(target=_pump, args=(out, plug), daemon=True)
            back.start()
            _pump(plug, out)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def company(folder: Path) -> Iterator[Company]:
    """Run its servers until the block ends."""
    made = Company(folder / "company")
    made.folder.mkdir()
    furnish(made.folder)
    with server(made.answer) as made.direct, server(made.lead) as made.proxy:
        yield made


def hold_hosts_are_reached_as_the_company_wants_it(
    bottle: Bottle, made: Company, folder: Path, *options: str
) -> None:
    """Hold that with the caller's variables each host is reached in its own way, and no password is seen.

    The image of the `options` has curl, and a shell.
    """
    authorities = folder / "authorities"
    authorities.mkdir()
    shutil.copy(made.folder / "cert.pem", authorities / "own.pem")
    (folder / "key").write_text("the-value\n")
    with dns_server(ANSWERS) as names:
        changes = {
            "HTTPS_PROXY": f"http://me:a-canary%3Apass@127.0.0.1:{made.proxy}",
            "NO_PROXY": "moved.example.org",
            "SSL_CERT_FILE": None,
            "SSL_CERT_DIR": str(authorities),
            "BOT_BOTTLE_RESOLVER": "{}:{}".format(*names.address),
            "BOT_BOTTLE_STATE_DIR": str(folder / "state"),
        }
        hosts = ("api", "other", "moved", "clouded")
        allow = [f"--allow={host}.example.org" for host in hosts] + [f"--allow=127.0.0.1:{made.direct}"]
        secret = f"--secret=id=KEY,src={folder}/key,host=api.example.org"
        there = replace(bottle, changes={**bottle.changes, **changes})
        script = ("sh", "-c", SCRIPT, "sh", str(made.direct))
        argv = ("run", "-q", "--name=company", "--user=0", secret, *allow, *options)
        done = there(*argv, "--", *script, timeout=240)
    assert done.out.splitlines() == [
        "api.example.org the-value",
        "other.example.org none",
        f"moved.example.org:{made.direct} ",
        "curl: (56) CONNECT tunnel failed, response 403",
        "0",
    ], (done, made.heads)
    asked = {head.split()[1] for head in made.heads}
    assert asked == {"api.example.org:443", "other.example.org:443"}
    assert {name for name, _ in names.asked} >= {"moved.example.org", "api.example.org"}
    written = [path for path in (folder / "state").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"a-canary" in path.read_bytes()]
    assert "a-canary" not in done.err + there("logs", "--egress", "--all", "company").out
    assert not there.leftovers
