"""Plain requests: what a server gets is what the proxy has decided about, and nothing beside it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.proxied import Proxied, proxied, read_all, read_head, server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Origin:
    """A server that records all that arrives, and answers each head."""

    port: int = 0
    seen: list[bytes] = field(default_factory=list)
    answer: bytes = OK

    def __call__(self, plug: socket.socket) -> None:
        while more := plug.recv(1 << 16):
            self.seen.append(more)
            if b"\r\n\r\n" in more:
                plug.sendall(self.answer)

    @property
    def text(self) -> bytes:
        return b"".join(self.seen)


@pytest.fixture(scope="module")
def served() -> Iterator[Origin]:
    made = Origin()
    with server(made) as made.port:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, served: Origin) -> Iterator[Proxied]:
    allow = [f"localhost:{served.port}", f"127.0.0.1:{served.port}"]
    with proxied(tmp_path_factory.mktemp("proxy"), allow) as made:
        yield made


@pytest.fixture
def origin(served: Origin, shared: Proxied) -> Origin:
    """The server of this module, which has seen nothing, and answers as ever."""
    shared.forget()
    served.seen.clear()
    served.answer = OK
    return served


@pytest.fixture
def proxy(origin: Origin, shared: Proxied) -> Proxied:
    """The proxy of this module, without what other tests have had it log."""
    return shared


def request(origin: Origin, *lines: str, method: str = "GET", path: str = "/x", body: str = "") -> bytes:
    """Return a request with the whole URL; other headers after Host."""
    host = f"localhost:{origin.port}"
    return "\r\n".join([f"{method} http://{host}{path} HTTP/1.1", f"Host: {host}", *lines, "", body]).encode()


def test_a_request_is_passed_on_without_what_is_for_the_proxy(proxy: Proxied, origin: Origin) -> None:
    lines = ("Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==", "X-One: 1", "X-Hop: 2")
    done = proxy.ask(request(origin, *lines, "Connection: X-Hop, close"))
    assert done.startswith(b"HTTP/1.1 200 OK")
    assert origin.text == f"GET /x HTTP/1.1\r\nHost: localhost:{origin.port}\r\nX-One: 1\r\n\r\n".encode()
    (entry,) = proxy.log(1)
    assert (entry["method"], entry["path"], entry["verdict"]) == ("GET", "/x", "allowed")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Content-Length: 4", "Content-Length: 5"),
        ("Content-Length: 4, 5",),
        ("Content-Length: +4",),
        ("Content-Length: 0x4",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Host: other.example.org",),
        ("X: a\0b",),
        ("X: a\rGET / HTTP/1.1",),
        ("X" * 200_000 + ": 1",),
    ],
)
def test_a_request_that_servers_read_differently_is_refused(
    proxy: Proxied, origin: Origin, lines: tuple[str, ...]
) -> None:
    done = proxy.ask(request(origin, *lines, method="POST", body="0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"))
    assert done.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), done
    assert origin.text == b""


def test_a_folded_header_and_bare_line_feeds_are_written_anew(proxy: Proxied, origin: Origin) -> None:
    data = request(origin, "X-Long: one\r\n two", "Connection: close").replace(
        b"\r\nConnection", b"\nConnection"
    )
    assert proxy.ask(data).startswith(b"HTTP/1.1 200")
    assert b"X-Long: one two\r\n" in origin.text


def test_a_chunked_body_is_written_anew(proxy: Proxied, origin: Origin) -> None:
    body = "3;name=value\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
    proxy.ask(request(origin, "Transfer-Encoding: chunked", "Connection: close", method="POST", body=body))
    assert origin.text.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert b"Trailer" not in origin.text


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET https://localhost:PORT/ HTTP/1.1", 400),
        ("GET ftp://localhost:PORT/ HTTP/1.1", 400),
        ("GET / HTTP/1.1", 400),
        ("GET http://me@localhost:PORT/ HTTP/1.1", 400),
        ("GET http://localhost:PORT@evil.example/ HTTP/1.1", 400),
        ("GET http://localhost:99999/ HTTP/1.1", 400),
        ("GET http:///x HTTP/1.1", 400),
        ("GET http://evil.example/ HTTP/1.1", 400),
        ("GET http://localhost:PORT/ HTTP/3.7", 505),
        ("GET  http://localhost:PORT/ HTTP/1.1", 400),
    ],
)
def test_other_targets_are_refused(proxy: Proxied, origin: Origin, line: str, status: int) -> None:
    head = f"{line}\r\nHost: localhost:PORT\r\n\r\n".replace("PORT", str(origin.port))
    assert proxy.ask(head.encode()).startswith(f"HTTP/1.1 {status} ".encode())
    assert origin.text == b""


def test_each_request_of_a_connection_is_decided_about(proxy: Proxied, origin: Origin) -> None:
    good = request(origin)
    evil = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    done = proxy.ask(good + good + evil + good)
    assert done.count(b"HTTP/1.1 200 ") == 2
    assert done.count(b"HTTP/1.1 403 ") == 1
    assert b"evil" not in origin.text


def test_requests_in_a_tunnel_have_to_be_for_its_host(proxy: Proxied, origin: Origin) -> None:
    plug, _ = proxy.tunnel(f"localhost:{origin.port}")
    with plug:
        plug.sendall(f"GET /a HTTP/1.1\r\nHost: localhost:{origin.port}\r\n\r\n".encode())
        assert read_head(plug).startswith(b"HTTP/1.1 200")
        assert plug.recv(2) == b"ok"
        plug.sendall(b"GET /b HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert read_all(plug).startswith(b"HTTP/1.1 40")
    assert b"/b" not in origin.text


def test_methods_and_paths_are_those_of_the_rule(tmp_path: Path, origin: Origin) -> None:
    rule = f"localhost:{origin.port} GET,HEAD /public/*"
    with proxied(tmp_path, [rule, f"127.0.0.1:{origin.port}"]) as proxy:
        for tunnel in (False, True):
            for method, path, status in (
                ("GET", "/public/x?y=1", 200),
                ("POST", "/public/x", 403),
                ("GET", "/private", 403),
                ("GET", "/public/../private", 403),
                ("GET", "/public/%2e%2e/private", 403),
            ):
                data = request(origin, "Connection: close", method=method, path=path)
                if tunnel:
                    plug, _ = proxy.tunnel(f"localhost:{origin.port}")
                    with plug:
                        plug.sendall(data)
                        done = read_all(plug)
                else:
                    done = proxy.ask(data)
                assert done.startswith(f"HTTP/1.1 {status} ".encode()), (method, path, done)
        entries = [each for each in proxy.log() if each["verdict"] == "allowed"]
        assert [(each["rule"], each["path"]) for each in entries] == [(rule, "/public/x")] * 2
        plug, _ = proxy.tunnel(f"localhost:{origin.port}")
        with plug:
            plug.sendall(b"SSH-2.0-x\r\n")
            assert read_all(plug) == b""
    assert b"private" not in origin.text


def test_only_websockets_can_be_switched_to(proxy: Proxied, origin: Origin) -> None:
    proxy.ask(
        request(origin, "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: x")
    )
    assert b"pgrade:" not in origin.text
    origin.answer = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"
    with proxy.connect() as plug:
        plug.sendall(request(origin, "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x85early")
        assert read_head(plug).startswith(b"HTTP/1.1 101 ")
        assert plug.recv(10) == b"\x81\x02hi"
        wait_until(lambda: origin.text.endswith(b"Upgrade: websocket\r\n\r\n\x81\x85early"))


def test_a_server_that_does_not_speak_http_is_a_bad_gateway(proxy: Proxied, origin: Origin) -> None:
    origin.answer = b"garbage\r\n\r\n"
    assert proxy.ask(request(origin, "Connection: close")).startswith(b"HTTP/1.1 502 ")
    assert proxy.log(1)[0]["verdict"] == "failed"


def test_a_response_with_two_lengths_is_written_with_one(proxy: Proxied, origin: Origin) -> None:
    origin.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )
    done = proxy.ask(request(origin, "Connection: close"))
    assert b"Content-Length" not in done
    assert done.endswith(b"2\r\nok\r\n0\r\n\r\n")
