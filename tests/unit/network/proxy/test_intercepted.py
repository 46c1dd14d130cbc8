"""Connections that smolvm hands over to the proxy, a real process: where they lead, and what is refused."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.proxied import Proxied, echo, proxied, read_all, read_head, server

from bot_bottle.network.interceptor import HOST, PROVED, PROXY
from bot_bottle.network.proxy_address import PORT

TOKEN = "0123456789abcdef" * 4
SOMEWHERE = "192.31.196.7"  # on the internet, and nobody's


def answer(plug: socket.socket) -> None:
    """Answer a request, and send anything else back."""
    first = plug.recv(1 << 16)
    if first.startswith(b"GET "):
        plug.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        return
    plug.sendall(first)
    echo(plug)


@pytest.fixture
def echoing() -> Iterator[int]:
    with server(answer) as port:
        yield port


@pytest.fixture
def names() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        yield made


@pytest.fixture
def proxy(tmp_path: Path, echoing: int, names: socket.socket) -> Iterator[Proxied]:
    """A proxy that allows one server, by its name and by its address."""
    (tmp_path / "token").write_text(TOKEN)
    allowed = [f"localhost:{echoing}", f"127.0.0.1:{echoing}"]
    here = f"127.0.0.1:{echoing}"
    services = dict.fromkeys(("host.bottle:5432", "host.bottle:80", "git.bottle:80"), here)
    token = str(tmp_path / "token")
    with proxied(tmp_path, allowed, others=[names], token=token, services=services) as made:
        yield made


def handed_over(
    proxy: Proxied, address: str, port: int, data: bytes = b"", token: str = TOKEN
) -> socket.socket:
    """Hand over a connection as smolvm does, with what the machine sends first."""
    plug = proxy.connect()
    head = b"SMOLICPT\1" + bytes.fromhex(token) + b"\4" + port.to_bytes(2, "big") + socket.inet_aton(address)
    plug.sendall(head)
    assert plug.recv(1) == b"\0"
    plug.sendall(data)
    return plug


def hello(name: str) -> bytes:
    """The ClientHello for a name."""
    context, sent = ssl.create_default_context(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def request(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def refusals(proxy: Proxied) -> list[tuple[str, int, str]]:
    return [
        (each["host"], each["port"], each["reason"]) for each in proxy.log() if each["verdict"] == "refused"
    ]


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"SMOLICPT\1" + bytes(39), b"SMOLICPT\2", b""]
)
def test_who_has_not_the_token_gets_no_answer(proxy: Proxied, data: bytes) -> None:
    with proxy.connect() as plug:
        plug.sendall(data)
        with suppress(OSError):  # it has been reset already
            plug.shutdown(socket.SHUT_WR)
        assert read_all(plug) == b""
    assert proxy.log() == []


def test_a_name_is_resolved_here_whatever_address_was_connected_to(proxy: Proxied, echoing: int) -> None:
    for data in (request("localhost"), request(f"LOCALHOST.:{echoing}")):
        with handed_over(proxy, SOMEWHERE, echoing, data) as plug:
            assert read_head(plug).startswith(b"HTTP/1.1 200 OK")
    with handed_over(proxy, SOMEWHERE, echoing, data := hello("localhost")) as plug:
        assert plug.recv(len(data)) == data
    assert refusals(proxy) == []


def test_another_name_or_port_at_an_allowed_address_is_refused(proxy: Proxied, echoing: int) -> None:
    for data in (request("other.example.org"), hello("other.example.org")):
        with handed_over(proxy, SOMEWHERE, echoing, data) as plug:
            assert read_all(plug) == b""
    for data in (request("localhost"), hello("localhost")):
        with handed_over(proxy, "127.0.0.1", 9, data) as plug:
            assert read_all(plug) == b""
    assert refusals(proxy) == [
        *[("other.example.org", echoing, "it is not allowed")] * 2,
        *[("localhost", 9, "its port is not allowed")] * 2,
    ]


def test_without_a_name_the_address_decides(proxy: Proxied, echoing: int) -> None:
    with handed_over(proxy, "127.0.0.1", echoing, b"\0what") as plug:
        assert plug.recv(10) == b"\0what"
    with handed_over(proxy, SOMEWHERE, echoing, b"\0what") as plug:
        assert read_all(plug) == b""
    assert refusals(proxy) == [(SOMEWHERE, echoing, "it is not allowed")]


def test_half_closed_connections_work(proxy: Proxied, echoing: int) -> None:
    with handed_over(proxy, "127.0.0.1", echoing, b"\0" * 3_000_000) as plug:
        plug.shutdown(socket.SHUT_WR)
        assert len(read_all(plug)) == 3_000_000


def test_the_proxys_own_address_is_an_http_proxy(proxy: Proxied, echoing: int) -> None:
    for target, status in ((f"localhost:{echoing}", b"200"), ("other.example.org:443", b"403")):
        with handed_over(
            proxy, PROXY, PORT, f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        ) as plug:
            assert read_head(plug).split()[1] == status
    with handed_over(proxy, PROXY, 80, b"\0") as plug:
        assert read_all(plug) == b""


def test_this_machine_is_its_services_and_no_other_port(proxy: Proxied, echoing: int) -> None:
    with handed_over(proxy, HOST, 5432, b"select") as plug:
        assert plug.recv(10) == b"select"
    for port in (echoing, 80):
        with handed_over(proxy, HOST, port, b"\0select") as plug:
            assert read_all(plug) == b""


def test_services_of_the_same_port_have_their_names(proxy: Proxied) -> None:
    for name, reached in (("git.bottle", True), ("host.bottle", True), ("other.bottle", False)):
        with handed_over(proxy, HOST, 80, request(name)) as plug:
            assert bool(plug.recv(5)) == reached
    assert [each["host"] for each in proxy.log(3) if each["verdict"] == "refused"] == ["other.bottle"]


def test_any_request_proves_that_connections_are_handed_over(proxy: Proxied) -> None:
    with handed_over(proxy, PROVED, 443, b"CONNECT x.invalid:443 HTTP/1.1\r\n\r\n") as plug:
        assert read_all(plug).startswith(b"HTTP/1.1 200 OK\r\n")
    assert proxy.log() == []


def test_allowed_names_have_their_addresses_and_no_others(proxy: Proxied, names: socket.socket) -> None:
    def ask(name: str) -> str:
        place = f"127.0.0.1:{names.getsockname()[1]}"
        argv = ["busybox", "nslookup", "-type=a", name, place]
        return subprocess.run(argv, capture_output=True, check=False, timeout=30).stdout.decode()

    assert "Address: 127.0.0.1" in ask("localhost")
    proxy.allow("localhost")
    assert "Address: " not in ask("localhost")  # its address is private, and no longer allowed
    assert refusals(proxy)[0][2] == "it resolves to 127.0.0.1, a private address that is not allowed"
    assert "NXDOMAIN" in ask("other.example.org")
    assert f"Address: {HOST}" in ask("host.bottle")
