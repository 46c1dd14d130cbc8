"""Networks with a proxy of their own, authorities of their own, or a resolver of one's own."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.dns_server import dns_server
from tests.support.proxied import Proxied, echo, proxied, read_all, read_head, server

from bot_bottle.errors import SpecError
from bot_bottle.network.authorities import names_other_authorities, write_authorities
from bot_bottle.network.proxy.resolver import parse_resolver
from bot_bottle.network.proxy.upstream import Exceptions, no_proxy, parse_upstream, upstream_urls

USER = "Basic " + base64.b64encode(b"me:a-canary:pass").decode()


class Upstream:
    """A proxy of a company: it wants a password, and reaches every name at one port of the loopback."""

    def __init__(self, port: int, secure: Path | None = None) -> None:
        self.port, self.secure = port, secure
        self.heads: list[str] = []

    def __call__(self, plug: socket.socket) -> None:
        if self.secure is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.secure)
            plug = context.wrap_socket(plug, server_side=True)
        head = read_head(plug).decode()
        self.heads.append(head)
        if f"Proxy-Authorization: {USER}\r\n" not in head:
            plug.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif head.startswith("CONNECT denied"):
            plug.sendall(b"HTTP/1.1 403 Not By Us\r\nContent-Length: 0\r\n\r\n")
        elif head.startswith("CONNECT"):
            plug.sendall(b"HTTP/1.1 200 OK\r\nVia: company\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self.port)) as out:
                out.sendall(plug.recv(1 << 16))
                plug.sendall(out.recv(1 << 16))
        else:
            plug.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nproxied")
        plug.close()


@contextmanager
def company(folder: Path, url: str, allow: list[str], **more: Any) -> Iterator[Proxied]:
    """Run a proxy behind the one of a company."""
    (folder / "url").write_text(url)
    pipes = {kind: str(folder / "url") for kind in ("https", "http")}
    with (
        dns_server({"private.example.org": ["10.1.2.3"]}) as names,
        proxied(folder, allow, upstreams=pipes, resolver=names.address, **more) as made,
    ):
        yield made


def exchanged(proxy: Proxied, target: str) -> bytes:
    plug, head = proxy.tunnel(target)
    with plug:
        assert b" 200 " in head, head + read_all(plug)
        plug.sendall(b"\0hello")
        return plug.recv(100)


ALLOWED = ["api.example.org", "denied.example.org", "private.example.org"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tunnels_and_plain_requests_go_by_the_upstream_proxy(
    tmp_path: Path, certificate: Path, scheme: str
) -> None:
    with server(echo) as port:
        upstream = Upstream(port, certificate if scheme == "https" else None)
        with server(upstream) as number:
            url = f"{scheme}://me:a-canary%3Apass@localhost:{number}"
            with (
                dns_server({"localhost": ["127.0.0.1"]}) as names,
            ):
                (tmp_path / "url").write_text(url)
                pipes = {kind: str(tmp_path / "url") for kind in ("https", "http")}
                more: dict[str, Any] = {
                    "upstreams": pipes,
                    "resolver": names.address,
                    "authorities": str(certificate),
                }
                with proxied(tmp_path, ALLOWED, **more) as proxy:
                    assert exchanged(proxy, "api.example.org:443") == b"\0hello"
                    request = b"GET http://api.example.org/x?y HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
                    with proxy.connect() as plug:
                        plug.sendall(request)
                        assert read_head(plug).startswith(b"HTTP/1.1 200 ")
                        assert plug.recv(10) == b"proxied"
                    text = (tmp_path / "log").read_text() + (tmp_path / "proxy.json").read_text()
    assert upstream.heads[0].startswith("CONNECT api.example.org:443 HTTP/1.1\r\n")
    assert upstream.heads[1].startswith("GET http://api.example.org/x?y HTTP/1.1\r\n")
    assert "a-canary" not in text
    assert USER.split()[1] not in text


def test_what_the_upstream_proxy_refuses_is_reported_without_its_password(tmp_path: Path) -> None:
    upstream = Upstream(1)
    with server(upstream) as number:
        good = f"http://me:a-canary%3Apass@127.0.0.1:{number}"
        with company(tmp_path, good, ALLOWED) as proxy:
            plug, head = proxy.tunnel("denied.example.org:443")
            with plug:
                assert b" 502 " in head
                assert (
                    f"the upstream proxy 127.0.0.1:{number} answered: 403 Not By Us"
                    in read_all(plug).decode()
                )
            plug, head = proxy.tunnel("private.example.org:443")
            with plug:
                assert b" 403 " in head  # what is seen to be private here is not asked for there
    with server(upstream) as number, company(tmp_path, f"me:wrong@127.0.0.1:{number}", ALLOWED) as proxy:
        plug, head = proxy.tunnel("api.example.org:443")
        with plug:
            assert "requires other credentials" in read_all(plug).decode()
    with company(tmp_path, "127.0.0.1:9", ALLOWED) as proxy:
        plug, head = proxy.tunnel("api.example.org:443")
        with plug:
            assert "the upstream proxy 127.0.0.1:9 cannot be reached" in read_all(plug).decode()


def test_exceptions_are_reached_directly(tmp_path: Path) -> None:
    with server(echo) as port, dns_server({"api.example.org": ["127.0.0.1"]}) as names:
        (tmp_path / "url").write_text("http://127.0.0.1:9")
        pipes = {"https": str(tmp_path / "url")}
        more: dict[str, Any] = {"upstreams": pipes, "no_proxy": ".example.org", "resolver": names.address}
        with proxied(tmp_path, [f"api.example.org:{port}", "127.0.0.1"], **more) as proxy:
            assert exchanged(proxy, f"api.example.org:{port}") == b"\0hello"


@pytest.mark.parametrize(
    ("text", "host", "matches"),
    [
        ("*", "a.example", True),
        ("example.org", "example.org", True),
        ("example.org", "a.example.org", True),
        ("example.org", "badexample.org", False),
        (".example.org,x", "a.example.org", True),
        ("*.example.org", "a.example.org", True),
        ("a.example:443", "a.example", True),
        ("a.example:80", "a.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("", "127.0.0.1", True),
        ("", "localhost", True),
        (" , ,", "a.example", False),
    ],
)
def test_no_proxy_is_read_as_curl_and_others_do(text: str, host: str, matches: bool) -> None:
    assert Exceptions(text).match(host, 443) is matches


def test_the_usual_variables_are_read() -> None:
    env = {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1", "NO_PROXY": "x"}
    assert upstream_urls(env) == {"https": "http://a:1"}
    assert upstream_urls({"ALL_PROXY": "a:1"}) == {"https": "a:1", "http": "a:1"}
    assert no_proxy(env) == "x"
    assert parse_upstream("proxy.example.org:3128").port == 3128
    assert parse_upstream("https://proxy.example.org").secure


@pytest.mark.parametrize("url", ["socks5://a-canary@h:1", "http://a-canary:x@:80", "http://h:a-canary"])
def test_an_unusable_proxy_is_refused_without_showing_its_url(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_upstream(url)
    assert "a-canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("[2001:db8::53]:54", ("2001:db8::53", 54)),
        ("2001:db8::53", ("2001:db8::53", 53)),
    ],
)
def test_a_resolver_is_an_address_with_or_without_a_port(text: str, found: tuple[str, int]) -> None:
    assert parse_resolver(text) == found


@pytest.mark.parametrize("text", ["dns.example.org", "192.0.2.53:0", "192.0.2.53:x", "https://192.0.2.53"])
def test_another_resolver_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="BOT_BOTTLE_RESOLVER is invalid"):
        parse_resolver(text)


def test_authorities_of_a_file_and_of_folders_are_collected(tmp_path: Path, certificate: Path) -> None:
    folder, result = tmp_path / "folder", tmp_path / "result"
    folder.mkdir()
    (folder / "one.pem").write_bytes(certificate.read_bytes())
    (folder / "again.crt").write_bytes(certificate.read_bytes())
    (folder / "notes").write_text("nothing")
    write_authorities({"SSL_CERT_FILE": str(certificate), "SSL_CERT_DIR": str(folder)}, result)
    assert result.read_text().count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE KEY" not in result.read_text()
    write_authorities({"SSL_CERT_DIR": str(folder)}, result)
    assert result.read_text().count("BEGIN CERTIFICATE") > 10


def test_the_place_of_the_systems_authorities_names_no_others(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "SSL_CERT_DIR": "/etc/ssl/certs"}
    own = {**system, "SSL_CERT_FILE": str(certificate)}
    for name, value in own.items():
        monkeypatch.setenv(name, value)  # which Python's own answer depends on
    assert not names_other_authorities(system)
    assert not names_other_authorities({})
    assert names_other_authorities(own)
    assert names_other_authorities({**system, "SSL_CERT_DIR": f"/etc/ssl/certs:{certificate.parent}"})


@pytest.mark.parametrize(
    "names",
    [
        lambda folder: {"SSL_CERT_FILE": f"{folder}/missing"},
        lambda folder: {"SSL_CERT_FILE": "/dev/null"},
        lambda folder: {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": f"{folder}/missing"},
    ],
)
def test_authorities_that_cannot_be_used_are_refused(
    tmp_path: Path, names: Callable[[Path], dict[str, str]]
) -> None:
    with pytest.raises(SpecError, match="SSL_CERT_FILE"):
        write_authorities(names(tmp_path), tmp_path / "result")
