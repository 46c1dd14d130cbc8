"""Who may do what: loopback, one Host, one secret prefix, and writing only where it was asked for."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.wire import OCI_MANIFEST, Wire

from bot_bottle.image.spec import Digest
from bot_bottle.registry.ephemeral import ephemeral_registry
from bot_bottle.registry.registry import Registry

NOBODY = Digest.of(b"nobody has this")
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))


def test_it_listens_on_loopback_alone(registry: Registry) -> None:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if int(port, 16) == registry.port and line.split()[3] == "0A":  # listening
                found.append(address)
    assert found == ["0100007F"]


def test_the_address_is_as_guests_need_it(registry: Registry) -> None:
    assert registry.address == f"127.0.0.1:{registry.port}"
    assert registry.target("app", "v1") == f"{registry.address}/{registry.prefix}/app:v1"


def test_every_registry_has_another_prefix_of_128_bits() -> None:
    prefixes = set()
    for _ in range(5):
        with ephemeral_registry() as registry:
            prefixes.add(registry.prefix)
            assert len(bytes.fromhex(registry.prefix)) == 16
    assert len(prefixes) == 5


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/",
        "/v2/_catalog",
        "/v2/app/tags/list",
        f"/v2/app/blobs/{NOBODY}",
        "/v2/app/manifests/latest",
        "/v2/app/blobs/uploads/",
        f"/v2/{'0' * 32}/app/manifests/latest",
        "/v2/{prefix}/manifests/latest",
        "/v2/{prefix}0/app/manifests/latest",
        "/v2/x/{prefix}/app/manifests/latest",
        "/v2/{prefix}/../../etc/passwd",
        "/v2/{prefix}/app/../../manifests/latest",
        "/v2/{prefix}/%2e%2e/blobs/x",
        "/v2/{prefix}//app/manifests/latest",
        "/v2/{prefix}/app/",
        "/v2//{prefix}/app/manifests/latest",
    ],
)
def test_outside_the_prefix_there_is_one_answer(wire: Wire, method: str, path: str) -> None:
    wire.push_image("latest")
    answer = wire.ask(method, path.format(prefix=wire.prefix))
    assert answer.status == 404
    if method != "HEAD":
        assert answer.json == {
            "errors": [{"code": "NAME_UNKNOWN", "message": "repository name not known to registry"}]
        }


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("127.0.0.1", 421),
        ("127.0.0.1:1", 421),
        ("evil.example:{port}", 421),
        ("127.0.0.1:{port}.evil.example", 421),
        ("", 421),
    ],
)
def test_the_host_must_be_ours(wire: Wire, host: str, status: int) -> None:
    answer = wire.ask("GET", "/v2/", headers={"Host": host.format(port=wire.port)})
    assert answer.status == status


def test_without_push_nothing_can_be_written() -> None:
    with ephemeral_registry() as registry, Wire(registry.port, registry.prefix) as wire:
        for method, path in [
            ("POST", "app/blobs/uploads/"),
            ("POST", f"app/blobs/uploads/?mount={NOBODY}"),
            ("POST", f"app/blobs/uploads/?digest={NOBODY}"),
            ("PATCH", "app/blobs/uploads/x"),
            ("PUT", "app/blobs/uploads/x"),
            ("DELETE", "app/blobs/uploads/x"),
            ("PUT", "app/manifests/latest"),
            ("DELETE", "app/manifests/latest"),
            ("DELETE", f"app/blobs/{NOBODY}"),
        ]:
            answer = wire.ask(method, path, b"data", {"Content-Type": OCI_MANIFEST})
            assert (answer.status, answer.code) == (403, "DENIED"), (method, path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "app/manifests/latest", "GET, HEAD, PUT, DELETE"),
        ("PUT", f"app/blobs/{NOBODY}", "GET, HEAD, DELETE"),
        ("GET", "app/blobs/uploads/", "POST"),
        ("POST", "app/blobs/uploads/x", "GET, PATCH, PUT, DELETE"),
        ("HEAD", "app/tags/list", "GET"),
        ("DELETE", f"app/referrers/{NOBODY}", "GET"),
        ("POST", "/v2/", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_support_is_refused(
    wire: Wire, method: str, path: str, allowed: str
) -> None:
    answer = wire.ask(method, path)
    assert (answer.status, answer["allow"]) == (405, allowed)


def test_a_tls_hello_is_survived(wire: Wire) -> None:
    for _ in range(20):
        assert wire.raw(TLS_HELLO).startswith(b"HTTP/1.0 400")
    assert wire.ask("GET", "/v2/").status == 200


def test_clients_that_stall_or_drop_harm_nobody_else(wire: Wire) -> None:
    digest = wire.push_blob(bytes(8 << 20))
    held = []
    request = f"GET /v2/{wire.prefix}/app/blobs/{digest} HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\n\r\n"
    upload = (
        f"POST /v2/{wire.prefix}/app/blobs/uploads/?digest={NOBODY} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{wire.port}\r\nContent-Length: 1000000\r\n\r\nhalf"
    )
    try:
        for text in [request, upload, "GET /v2/ HTTP/1.1\r\nHost:", ""] * 10:
            connection = socket.create_connection(("127.0.0.1", wire.port))
            connection.sendall(text.encode())
            held.append(connection)
        for _ in range(50):  # none of which waits as long as the wire does
            assert wire.ask("GET", "/v2/").status == 200
        assert len(wire.ask("GET", f"app/blobs/{digest}").body) == 8 << 20
    finally:
        for connection in held:
            connection.close()
    assert wire.ask("GET", f"app/blobs/{digest}", headers={"Range": "bytes=0-0"}).status == 206


def test_connections_are_bounded_and_those_that_go_make_room(wire: Wire) -> None:
    assert wire.ask("GET", "/v2/").status == 200
    held = [socket.create_connection(("127.0.0.1", wire.port), timeout=20) for _ in range(400)]
    with suppress(ConnectionError):
        assert held[-1].recv(1) == b""  # the last one was looked at too, and turned away
    assert wire.ask("GET", "/v2/").status == 200  # who is in stays in
    for connection in held:
        connection.close()

    def is_let_in() -> bool:
        with suppress(OSError), Wire(wire.port, wire.prefix) as other:
            return other.ask("GET", "/v2/").status == 200
        return False

    wait_until(is_let_in)


def test_a_client_that_drops_in_a_single_post_leaves_no_upload(wire: Wire) -> None:
    text = (
        f"POST /v2/{wire.prefix}/app/blobs/uploads/?digest={NOBODY} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{wire.port}\r\nContent-Length: 1000\r\n\r\nhalf"
    )
    for _ in range(100):  # more than may be open at once
        with socket.create_connection(("127.0.0.1", wire.port)) as connection:
            connection.sendall(text.encode())
    wait_until(lambda: wire.ask("POST", "app/blobs/uploads/").status != 429)
    assert wire.ask("POST", "app/blobs/uploads/").status == 202


def test_a_dropped_chunk_is_resumed(wire: Wire) -> None:
    location = wire.begin()
    text = f"PATCH {location} HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\nContent-Length: 10\r\n\r\n01234"
    begun = False
    while not begun:
        with socket.create_connection(("127.0.0.1", wire.port), timeout=20) as connection:
            connection.sendall(text.encode())
            # it has begun when others are refused; or was refused itself, as one of those was in its way
            while not begun and not select.select([connection], [], [], 0.01)[0]:
                begun = wire.ask("PATCH", location, b"").status == 409
    while (answer := wire.ask("PATCH", location, b"")).status == 409:
        time.sleep(0.01)
    arrived = int(answer["range"].partition("-")[2]) + 1 if answer["range"] != "0-0" else 0
    assert (
        wire.ask("PUT", f"{location}?digest={Digest.of(b'0123456789')}", b"0123456789"[arrived:]).status
        == 201
    )
