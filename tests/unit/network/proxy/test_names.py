"""Names: how they are resolved, written, and said again in TLS and HTTP inside a tunnel."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.dns_server import Answers, DnsServer, dns_server
from tests.support.hellos import ECH, extension, hello
from tests.support.proxied import Proxied, echo, proxied, read_all, server

HERE, ELSEWHERE = "127.0.0.1", "127.9.9.9"
turn = iter(range(1_000_000))
ANSWERS: Answers = {
    "api.example.org": [HERE],
    "other.example.org": [HERE],
    "chain.example.org": "a.example.net",
    "a.example.net": "b.example.com",
    "b.example.com": [HERE],
    "astray.example.org": "c.example.net",
    "c.example.net": ["10.1.2.3"],
    "metadata.example.org": ["169.254.169.254"],
    "mapped.example.org": ["::ffff:10.1.2.3"],
    "both.example.org": ["10.1.2.3", HERE],
    "xn--bcher-kva.example.org": [HERE],
    # allowed when it is decided on, and what was not when it is asked for again
    "rebound.example.org": lambda: [HERE] if next(turn) < 2 else [ELSEWHERE],
}


@pytest.fixture(scope="module")
def name_server() -> Iterator[DnsServer]:
    with dns_server(ANSWERS) as made:
        yield made


@pytest.fixture
def names(name_server: DnsServer) -> DnsServer:
    name_server.asked.clear()
    return name_server


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with server(echo) as number:
        yield number


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, name_server: DnsServer, port: int) -> Iterator[Proxied]:
    hosts = ("api", "other", "chain", "astray", "metadata", "mapped", "both", "bücher", "rebound", "nothing")
    allow = [*(f"{host}.example.org:{port}" for host in hosts), f"{HERE}:{port}"]
    with proxied(tmp_path_factory.mktemp("proxy"), allow, resolver=name_server.address) as made:
        yield made


@pytest.fixture
def proxy(shared: Proxied, names: DnsServer) -> Proxied:
    """The proxy of this module, without what other tests have had it log."""
    shared.forget()
    names.asked.clear()
    return shared


@pytest.mark.parametrize(
    "name",
    [
        "api.example.org",
        "API.Example.ORG",
        "api.example.org.",
        "chain.example.org",
        "both.example.org",
        "xn--bcher-kva.example.org",
    ],
)
def test_an_allowed_name_is_reached_however_it_is_written(proxy: Proxied, port: int, name: str) -> None:
    plug, head = proxy.tunnel(f"{name}:{port}")
    with plug:
        assert b" 200 " in head
        plug.sendall(b"\0x")
        assert plug.recv(10) == b"\0x"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("astray.example.org", "10.1.2.3, a private address"),
        ("metadata.example.org", "169.254.169.254, a private address"),
        ("mapped.example.org", "10.1.2.3, a private address"),
        ("a.example.net", "it is not allowed"),
        ("api.example.org.evil.example", "it is not allowed"),
        ("sub.api.example.org", "it is not allowed"),
        ("example.org", "it is not allowed"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(proxy: Proxied, port: int, name: str, reason: str) -> None:
    plug, head = proxy.tunnel(f"{name}:{port}")
    with plug:
        assert b" 403 " in head
        assert reason in read_all(plug).decode()


def test_a_name_without_an_address_is_a_bad_gateway(proxy: Proxied, port: int) -> None:
    plug, head = proxy.tunnel(f"nothing.example.org:{port}")
    plug.close()
    assert b" 502 " in head
    assert proxy.log(1)[0]["reason"].startswith("it does not resolve")


def test_a_connection_goes_where_was_decided_on(proxy: Proxied, port: int, names: DnsServer) -> None:
    global turn
    turn = iter(range(1_000_000))
    plug, head = proxy.tunnel(f"rebound.example.org:{port}")
    with plug:
        assert b" 200 " in head
        plug.sendall(b"\0x")
        assert plug.recv(10) == b"\0x"
    assert sorted(names.asked) == [("rebound.example.org", "A"), ("rebound.example.org", "AAAA")]
    plug, head = proxy.tunnel(f"rebound.example.org:{port}")
    plug.close()
    assert b" 403 " in head


def test_a_long_answer_is_asked_for_by_tcp(tmp_path: Path, port: int) -> None:
    with (
        dns_server(ANSWERS, truncates=True) as names,
        proxied(tmp_path, [f"api.example.org:{port}", HERE], resolver=names.address) as proxy,
    ):
        plug, head = proxy.tunnel(f"api.example.org:{port}")
        plug.close()
        assert b" 200 " in head


def say(proxy: Proxied, port: int, data: bytes, name: str = "api.example.org") -> bytes:
    """Send bytes in a tunnel to a server that echoes, and return what comes back."""
    plug, head = proxy.tunnel(f"{name}:{port}")
    with plug:
        assert b" 200 " in head
        plug.sendall(data)
        plug.shutdown(socket.SHUT_WR)
        return read_all(plug)


@pytest.mark.parametrize("size", [3, 1 << 14])
@pytest.mark.parametrize("name", ["api.example.org", "API.example.org", "other.example.org"])
def test_tls_to_an_allowed_name_passes_unchanged(proxy: Proxied, port: int, name: str, size: int) -> None:
    data = hello(name, extension(ECH, b"grease"), size=size) + b"\x17\x03\x03\0\x05after"
    assert say(proxy, port, data) == data


@pytest.mark.parametrize(
    ("data", "host", "reason"),
    [
        (hello("evil.example.net"), "evil.example.net", "it is not allowed"),
        (hello("evil.example.net", size=5), "evil.example.net", "it is not allowed"),
        (hello("public.example.com", extension(ECH, b"x" * 300)), "public.example.com", "it is not allowed"),
        (hello("a b"), "api.example.org", "invalid TLS: the server name is not a host name"),
        (hello("api.example.org")[:50], "api.example.org", "invalid TLS: the ClientHello is incomplete"),
        (b"GET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "evil.example.net", "it is not allowed"),
        (b"\r\nget / http/1.1\r\nHost: x\r\n\r\n", "", ""),
        (b"GET http://evil.example.net/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n", "", ""),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "api.example.org", "HTTP/2 without TLS cannot be checked"),
        (b"CONNECT evil.example.net:443 HTTP/1.1\r\nHost: evil.example.net:443\r\n\r\n", "", ""),
    ],
)
def test_what_asks_for_another_name_in_a_tunnel_is_not_passed_on(
    proxy: Proxied, port: int, data: bytes, host: str, reason: str
) -> None:
    back = say(proxy, port, data)
    assert back == b"" or back.startswith((b"HTTP/1.1 40", b"HTTP/1.1 50")), back
    if host:
        refused = next(each for each in proxy.log(1) if each["verdict"] == "refused")
        assert (refused["host"], refused["reason"]) == (host, reason)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO api.example.org\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"\0\0\0\x08\x04\xd2\x16/",
        b"0 \x02\x01\x01`\x1b",
        b"\x80\x2e\x01\x03\x01",
        b"",
    ],
)
def test_other_protocols_pass_unchanged(proxy: Proxied, port: int, data: bytes) -> None:
    assert say(proxy, port, data) == data


def test_tls_works_from_end_to_end(tmp_path: Path, names: DnsServer, certificate: Path) -> None:
    def serve(plug: socket.socket) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        with context.wrap_socket(plug, server_side=True) as secure:
            secure.sendall(secure.recv(100)[::-1])

    with (
        server(serve) as port,
        proxied(tmp_path, [f"api.example.org:{port}", HERE], resolver=names.address) as proxy,
    ):
        plug, _ = proxy.tunnel(f"api.example.org:{port}")
        context = ssl.create_default_context(cafile=str(certificate))
        with context.wrap_socket(plug, server_hostname="api.example.org") as secure:
            secure.sendall(b"hello")
            assert secure.recv(100) == b"olleh"
