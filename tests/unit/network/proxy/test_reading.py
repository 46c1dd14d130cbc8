"""Encrypted requests that are read are decided about one by one, in HTTP/1.1, HTTP/2 and WebSockets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded
from tests.support.bottle import wait_until
from tests.support.dns_server import dns_server
from tests.support.proxied import Proxied, proxied, read_head, server

from bot_bottle.network.proxy.config import ProxiedSecret, ReadingConfig

HOST = "api.example.org"
SECRET = b"a-canary-value"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class Site:
    """An HTTPS server that answers every request, in the versions of HTTP that it offers.

    `heads` are those of the requests; of HTTP/2, the fields and their values as lines.
    """

    def __init__(self, certificate: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.heads: list[bytes] = []

    def __call__(self, plain: socket.socket) -> None:
        with self.context.wrap_socket(plain, server_side=True) as plug:
            if plug.selected_alpn_protocol() == "h2":
                self._serve_http2(plug)
                return
            while head := read_head(plug):
                self.heads.append(head)
                fields = dict(
                    line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
                )
                if b"upgrade" in fields:
                    key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
                    assert key
                    accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())  # noqa: S324
                    plug.sendall(
                        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x05hello"
                    )
                    plug.recv(100)
                    return
                plug.recv(int(fields.get(b"content-length", b"0")))
                plug.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def _serve_http2(self, plug: ssl.SSLSocket) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        plug.sendall(connection.data_to_send())
        while data := plug.recv(1 << 16):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.heads.append(b"\n".join(b" ".join(field) for field in event.headers))
                if isinstance(event, StreamEnded):
                    connection.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            plug.sendall(connection.data_to_send())


@dataclass(frozen=True)
class Read:
    """A proxy that reads, the site that it leads to, and the authorities that a bottle would trust."""

    proxy: Proxied
    site: Site
    port: int
    bundle: Path

    def curl(self, *requests: Sequence[str]) -> list[str]:
        """Run curl in the bottle's place; return status, version and new connections of each request."""
        own = ["-sS", "--proxy", f"http://127.0.0.1:{self.proxy.port}", "--cacert", str(self.bundle)]
        own += ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{num_connects}\n"]
        argv = [word for request in requests for word in ("--next", *own, *request)]
        done = subprocess.run(["curl", *argv[1:]], capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return done.stdout.splitlines()

    def url(self, path: str, host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    @contextmanager
    def tls(self) -> Iterator[ssl.SSLSocket]:
        """Connect with TLS through a tunnel."""
        plug, head = self.proxy.tunnel(f"{HOST}:{self.port}")
        assert b" 200 " in head
        context = ssl.create_default_context(cafile=str(self.bundle))
        with plug, context.wrap_socket(plug, server_hostname=HOST) as secure:
            secure.settimeout(20)
            yield secure


@pytest.fixture
def read(shared: Read) -> Read:
    """The proxy of this module, and its site, without what other tests have asked for."""
    shared.proxy.forget()
    shared.site.heads.clear()
    return shared


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Read]:
    """A proxy for which requests to HOST are limited to GET and POST below /pub/."""
    site, folder = Site(certificate), tmp_path_factory.mktemp("reading")
    (folder / "secret").write_bytes(SECRET)
    bundle = folder / "bundle.pem"
    with server(site) as port, dns_server({HOST: ["127.0.0.1"]}) as names:
        allow = [f"{HOST}:{port} GET,POST /pub/*", f"127.0.0.1:{port}", "other.example.org"]
        with proxied(
            folder,
            allow,
            authorities=str(certificate),
            resolver=names.address,
            reading=ReadingConfig(str(folder / "authority"), str(bundle)),
            secrets=[ProxiedSecret("PLACEHOLDER", [HOST], str(folder / "secret"))],
        ) as proxy:
            wait_until(lambda: bundle.exists(), 30)
            yield Read(proxy, site, port, bundle)


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_each_request_is_decided_about_by_method_and_path(read: Read, option: str, version: str) -> None:
    said = read.curl(
        (option, read.url("/pub/a?q=1")),
        (option, "-d", "x", read.url("/pub/b")),
        (option, "-X", "DELETE", read.url("/pub/a")),
        (option, read.url("/private")),
        (option, "--path-as-is", read.url("/pub/../private")),
        (option, "--path-as-is", read.url("/pub/%2e%2e/private")),
    )
    assert [line.split()[:2] for line in said] == [[code, version] for code in ("200", "200", *["403"] * 4)]
    assert len(read.site.heads) == 2
    assert b"/pub/a?q=1" in read.site.heads[0]
    assert b"/pub/b" in read.site.heads[1]
    logged = sorted((each["verdict"], each["method"], each["path"]) for each in read.proxy.log(6))
    assert logged[:2] == [("allowed", "GET", "/pub/a"), ("allowed", "POST", "/pub/b")]
    assert [verdict for verdict, *_ in logged[2:]] == ["refused"] * 4


def test_another_authority_on_the_same_connection_is_refused(read: Read) -> None:
    other = f"Host: other.example.org:{read.port}"
    first, second = read.curl(("--http2", read.url("/pub/a")), ("--http2", "-H", other, read.url("/pub/b")))
    assert first.split()[:2] == ["200", "2"]
    assert second.split() == ["421", "2", "0"]  # without another connection
    assert len(read.site.heads) == 1


def test_a_websocket_is_passed_on_both_ways(read: Read) -> None:
    with read.tls() as plug:
        plug.sendall(
            b"GET /pub/socket HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            % (HOST.encode(), read.port)
        )
        assert read_head(plug).startswith(b"HTTP/1.1 101 ")
        assert plug.recv(100) == b"\x81\x05hello"
    assert read.proxy.log(1)[0]["path"] == "/pub/socket"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both-lengths"),
        pytest.param(b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc", id="two-lengths"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="unknown-coding"),
        pytest.param(b"Content-Length : 3\r\n\r\nabc", id="space-before-colon"),
    ],
)
def test_a_request_that_servers_could_end_elsewhere_is_not_sent_on(read: Read, head: bytes) -> None:
    smuggled = b"GET /private HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode()
    with read.tls() as plug:
        host = b"POST /pub/a HTTP/1.1\r\nHost: %s:%d\r\n" % (HOST.encode(), read.port)
        plug.sendall(host + head + smuggled)
        plug.recv(1 << 16)
    assert not [each for each in read.site.heads if b"/private" in each or b"abc" in each]
    assert all(
        each.lower().count(b"content-length:") + each.lower().count(b"transfer-encoding:") <= 1
        for each in read.site.heads
    )


def test_a_credential_is_in_requests_that_are_allowed_and_in_no_log(read: Read) -> None:
    given = ("-H", "Authorization: Bearer PLACEHOLDER")
    said = read.curl((*given, read.url("/pub/a")), (*given, read.url("/private")))
    assert [line.split()[0] for line in said] == ["200", "403"]
    assert b"Bearer " + SECRET in read.site.heads[0]
    assert len(read.site.heads) == 1
    assert SECRET.decode() not in json.dumps(read.proxy.log(2))
