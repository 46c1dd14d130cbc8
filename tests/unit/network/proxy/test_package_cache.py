"""Files of registries are fetched once, by the proxy itself, and nothing that a bottle sends changes them."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.dns_server import dns_server
from tests.support.proxied import Proxied, proxied, read_head, server

from bot_bottle.network.caches import PackageFiles
from bot_bottle.network.proxy.config import ProxiedSecret, ReadingConfig

HOST, OTHER = "api.example.org", "other.example.org"
FILE = b"the archive of a package " * 10_000
HASH = hashlib.blake2b(FILE, digest_size=32).hexdigest()
HASHED = f"/hashed/{HASH[:2]}/{HASH[2:]}/a.whl"
DAMAGED = f"/hashed/{HASH[:2]}/{HASH[2:-1]}{'0' if HASH[-1] != '0' else '1'}/a.whl"


@dataclass
class Registry:
    """A server with TLS, and one without, that record heads and answer with FILE and more headers."""

    certificate: Path
    heads: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    short: int = 0  # bytes that are missing at the end
    down: bool = False

    def encrypted(self, plain: socket.socket) -> None:
        if self.down:
            return
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        with context.wrap_socket(plain, server_side=True) as plug:
            self.serve(plug)

    def serve(self, plug: socket.socket) -> None:
        while (head := read_head(plug).decode()) and not self.down:
            self.heads.append(head)
            if (length := re.search(r"(?i)content-length: (\d+)", head)) and int(length[1]):
                plug.recv(int(length[1]))
            path = head.split()[1]
            status = 404 if "missing" in path else 200
            more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            about = f"HTTP/1.1 {status} X\r\nContent-Length: {len(FILE)}\r\n{more}\r\n"
            plug.sendall(about.encode() + FILE[: len(FILE) - self.short])
            if self.short:
                return

    @property
    def paths(self) -> list[str]:
        return [head.split()[1] for head in self.heads]


@dataclass
class World:
    """A proxy with a cache for HOST, which a bottle reaches with TLS at `port`, and without at `plain`."""

    proxy: Proxied
    registry: Registry
    port: int
    plain: int
    folder: Path

    def get(self, path: str, *options: str, host: str = HOST, scheme: str = "https") -> tuple[str, bytes]:
        """Request with curl in the bottle's place; return the head of the response and its body."""
        port = self.port if scheme == "https" else self.plain
        argv = ["curl", "-s", "-i", "--http1.1", "--proxy", f"http://127.0.0.1:{self.proxy.port}"]
        argv += ["--suppress-connect-headers", "--cacert", str(self.folder / "bundle.pem"), *options]
        done = subprocess.run(
            [*argv, f"{scheme}://{host}:{port}{path}"], capture_output=True, timeout=60, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        return head.decode().lower(), body

    def allow(self, *entries: str) -> None:
        """Allow these, and the private address that the names have."""
        self.proxy.allow(*entries, "127.0.0.1")

    @property
    def stored(self) -> list[Path]:
        return sorted((self.folder / "packages").glob("*"))

    def log(self, count: int) -> list[tuple[str, bool]]:
        return [(each["path"], each.get("cached", False)) for each in self.proxy.log(count)]


@pytest.fixture
def world(shared: World) -> World:
    """The proxy of this module and its registry, as new ones."""
    shared.registry.down = False
    shared.registry.short = 0
    shared.registry.headers = {}
    shared.allow(f"{HOST}:{shared.port}", f"{HOST}:{shared.plain}", f"{OTHER}:{shared.port}")
    shared.proxy.forget()
    for path in shared.stored:
        path.unlink()
    shared.registry.heads.clear()
    return shared


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[World]:
    registry, folder = Registry(certificate), tmp_path_factory.mktemp("cache")
    (folder / "secret").write_text("a-canary-value")
    with (
        server(registry.encrypted) as port,
        server(registry.serve) as plain,
        dns_server({HOST: ["127.0.0.1"], OTHER: ["127.0.0.1"]}) as names,
    ):
        caches = [
            PackageFiles(HOST, port, port, r"/pkg/[^/]+\.tgz"),
            PackageFiles(HOST, port, port, r"/hashed/(?P<blake2b>[0-9a-f]{2}/[0-9a-f]{62})/[^/]+"),
            PackageFiles(HOST, plain, port, r"/pool/.+\.deb"),
        ]
        with proxied(
            folder,
            caches=caches,
            authorities=str(certificate),
            resolver=names.address,
            reading=ReadingConfig(str(folder / "authority"), str(folder / "bundle.pem")),
            packages=str(folder / "packages"),
            secrets=[ProxiedSecret("PLACEHOLDER", [HOST], str(folder / "secret"))],
        ) as proxy:
            wait_until(lambda: (folder / "bundle.pem").exists(), 30)
            yield World(proxy, registry, port, plain, folder)


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_a_file_is_fetched_once(world: World, option: str) -> None:
    world.registry.headers = {"Content-Type": "application/x-file", "ETag": '"1"', "X-Other": "not stored"}
    first, body = world.get("/pkg/a.tgz", option)
    assert body == FILE
    assert "x-other" in first
    second, body = world.get("/pkg/a.tgz", option)
    assert body == FILE
    assert " 200" in second
    assert "content-type: application/x-file" in second
    assert 'etag: "1"' in second
    assert "cache-status: bot-bottle; hit" in second
    assert "x-other" not in second
    assert world.registry.paths == ["/pkg/a.tgz"]
    assert world.log(2) == [("/pkg/a.tgz", False), ("/pkg/a.tgz", True)]
    entries = [each for each in world.proxy.log() if each.get("cached")]
    assert [(each["verdict"], each["down"]) for each in entries] == [("allowed", len(FILE))]


def test_one_connection_has_stored_files_and_others(world: World) -> None:
    world.get("/pkg/a.tgz")
    url = f"https://{HOST}:{world.port}"
    _, bodies = world.get("/pkg/a.tgz", f"{url}/index", f"{url}/pkg/a.tgz", f"{url}/pkg/b.tgz")
    assert bodies.count(FILE) == 4
    assert sorted(world.registry.paths) == ["/index", "/pkg/a.tgz", "/pkg/b.tgz"]


def test_a_stored_file_needs_no_registry(world: World) -> None:
    world.get("/pkg/a.tgz")
    world.registry.down = True
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert " 502" in world.get("/pkg/b.tgz")[0]
    assert world.registry.paths == ["/pkg/a.tgz"]


def test_the_proxys_own_request_has_nothing_of_the_bottles_but_its_path(world: World) -> None:
    sent = (
        "-H",
        "X-Forwarded-Host: evil.example.net",
        "-H",
        "Accept: x/evil",
        "-A",
        "evil",
        "-H",
        "X-Key: 1",
    )
    world.get("/pkg/%61.tgz", *sent)
    (head,) = world.registry.heads
    lines = head.splitlines()
    assert lines[0] == "GET /pkg/a.tgz HTTP/1.1"  # the one spelling
    names = [line.partition(":")[0].lower() for line in lines[1:-1]]
    assert names == ["host", "user-agent", "accept", "accept-encoding"]
    assert "evil" not in head
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert len(world.registry.heads) == 1


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-H", "Authorization: Bearer x"), id="authorization"),
        pytest.param(("-H", "Cookie: x=1"), id="cookie"),
        pytest.param(("-H", "X-Key: PLACEHOLDER"), id="a-credential-of-ours"),
        pytest.param(("-r", "0-9"), id="range"),
        pytest.param(("-H", 'If-None-Match: "1"'), id="condition"),
        pytest.param(("-X", "PUT", "-d", "poison"), id="put"),
        pytest.param(("-X", "POST", "-d", "poison"), id="post"),
        pytest.param(("-X", "GET", "-d", "poison"), id="body"),
        pytest.param(("-X", "DELETE"), id="delete"),
        pytest.param(("-I",), id="head"),
        pytest.param(("-H", "X-HTTP-Method-Override: PUT", "-X", "POST"), id="override"),
    ],
)
def test_a_request_that_is_one_clients_is_neither_stored_nor_answered_by_the_cache(
    world: World, options: tuple[str, ...]
) -> None:
    world.get("/pkg/a.tgz", *options)
    assert world.stored == []
    world.get("/pkg/a.tgz")
    assert len(world.stored) == 1
    before = world.stored[0].read_bytes()
    world.get("/pkg/a.tgz", *options)
    assert [each.read_bytes() for each in world.stored] == [before]
    assert world.registry.paths == ["/pkg/a.tgz"] * 3
    assert [cached for _, cached in world.log(3)] == [False] * 3


@pytest.mark.parametrize(
    "path", ["/index", "/pkg/a.tgz?x=1", "/pkg/b/a.tgz", "/pkg/a.tgz/", "/pkg/..%2f..%2fa.tgz", "//pkg/a.tgz"]
)
def test_only_files_that_never_change_are_stored(world: World, path: str) -> None:
    world.get(path, "--path-as-is")
    world.get(path, "--path-as-is")
    assert world.stored == []
    assert len(world.registry.heads) == 2


def test_another_host_cannot_answer_for_the_registry(world: World) -> None:
    other = ("-H", f"Host: {HOST}:{world.port}")
    head, _ = world.get("/pkg/a.tgz", *other, host=OTHER)
    assert world.stored == []  # it is passed on unread, and is not the registry's
    world.registry.heads.clear()
    head, _ = world.get("/pkg/a.tgz", "-H", f"Host: {OTHER}:{world.port}")
    assert " 421" in head
    assert world.registry.heads == []
    assert world.stored == []
    assert world.get("/pkg/a.tgz")[1] == FILE


def test_what_is_cut_off_or_does_not_have_its_hash_is_not_stored(world: World) -> None:
    world.registry.short = 10
    _, body = world.get("/pkg/a.tgz")
    assert body != FILE
    assert world.stored == []
    world.registry.short = 0
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert world.get(DAMAGED)[1] != FILE
    assert len(world.stored) == 1
    assert world.get(HASHED)[1] == FILE
    assert len(world.stored) == 2


def test_a_damaged_file_is_fetched_again(world: World) -> None:
    world.get("/pkg/a.tgz")
    (path,) = world.stored
    path.write_bytes(b"P" + path.read_bytes()[1:])
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert len(world.registry.heads) == 2


def test_a_client_can_ask_for_a_fresh_file(world: World) -> None:
    world.get("/pkg/a.tgz")
    head, _ = world.get("/pkg/a.tgz", "-H", "Cache-Control: no-cache")
    assert "cache-status" not in head
    assert len(world.registry.heads) == 2
    world.get("/pkg/a.tgz")
    assert len(world.registry.heads) == 2


@pytest.mark.parametrize(
    "header",
    [{"Set-Cookie": "a=b"}, {"Cache-Control": "private"}, {"Cache-Control": "no-store"}, {"Vary": "Cookie"}],
    ids=lambda header: "-".join(header),
)
def test_a_response_that_is_not_for_everybody_is_not_stored(world: World, header: dict[str, str]) -> None:
    world.registry.headers = header
    assert world.get("/pkg/a.tgz")[1] == FILE
    assert world.stored == []


def test_an_error_is_passed_on_and_not_stored(world: World) -> None:
    head, _ = world.get("/pkg/missing.tgz")
    assert " 404" in head
    assert world.stored == []


def test_a_file_requested_without_tls_is_fetched_with_it(world: World) -> None:
    assert world.get("/pool/a.deb", scheme="http")[1] == FILE
    assert world.registry.heads[0].splitlines()[1] == f"Host: {HOST}:{world.port}"
    world.registry.down = True
    head, body = world.get("/pool/a.deb", scheme="http")
    assert body == FILE
    assert "cache-status: bot-bottle; hit" in head
    assert [each[1] for each in world.log(2)] == [False, True]


def test_a_file_without_tls_is_passed_on_where_the_server_has_none(world: World) -> None:
    world.allow(f"{HOST}:{world.plain}")  # and nothing with TLS
    assert world.get("/pool/a.deb", scheme="http")[1] == FILE
    assert world.registry.heads[0].splitlines()[1] == f"Host: {HOST}:{world.plain}"
    assert world.stored == []


def test_a_stored_file_is_for_those_only_who_may_reach_its_host(world: World) -> None:
    world.get("/pkg/a.tgz")
    world.allow(f"{OTHER}:{world.port}")
    assert world.get("/pkg/a.tgz") == ("", b"")
    assert len(world.registry.heads) == 1
