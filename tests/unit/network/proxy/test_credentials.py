"""Values in the proxy: renewed while it runs, and put into bodies only where a secret says so."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.bottle import wait_until
from tests.support.canary import holders
from tests.support.dns_server import dns_server
from tests.support.https_site import Site
from tests.support.proxied import Proxied, proxied, server

from bot_bottle.host.redact import Secret
from bot_bottle.network.proxy.config import ProxiedSecret, ReadingConfig
from bot_bottle.network.values import served
from bot_bottle.secrets.reference import Reference
from bot_bottle.secrets.renewal import renewal

HOST = "api.example.org"
FORM = "application/x-www-form-urlencoded"
FIRST, SECOND, THIRD = "canary-one-e5", "canary-two-e5", "canary-three-e5"
SPECIAL = 'a canary"\\&+é'
LIMIT = 1 << 20


@dataclass
class World:
    proxy: Proxied
    site: Site
    port: int
    bundle: Path
    refused: list[bool] = field(default_factory=list)  # what each question about FILE said

    def send(self, *options: str, data: str | bytes = b"", path: str = "/") -> tuple[str, bytes]:
        """Send a request with curl in the bottle's place; return its head and body at the server."""
        argv = ["curl", "-sS", "--proxy", f"http://127.0.0.1:{self.proxy.port}", "--cacert", str(self.bundle)]
        argv += [*options, f"https://{HOST}:{self.port}{path}"]
        data = data.encode() if isinstance(data, str) else data
        done = subprocess.run(argv, input=data, capture_output=True, timeout=60, check=False)
        assert done.stderr == b""
        return self.site.requests[-1]

    def bearer(self) -> str:
        head, _ = self.send("-H", "Authorization: Bearer PLACEHOLDER-FILE")
        found = re.search(r"(?i)authorization: Bearer (\S+)", head)
        assert found
        return found[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "value"
    made.write_text(f"{FIRST}\n")
    return made


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def world(tmp_path: Path, certificate: Path, path: Path, warnings: list[str]) -> Iterator[World]:
    """A proxy with two secrets for one host: FILE, which is a file's, and BODY, which bodies get too."""
    site = Site(certificate)
    pipes = {"FILE": FIRST, "BODY": SPECIAL}
    for name, value in pipes.items():
        (tmp_path / name).write_text(value)
    bundle = tmp_path / "bundle.pem"
    renew = renewal(Reference("FILE", "file", str(path), (HOST,)), Secret(FIRST), warnings.append)
    assert renew is not None
    asked: list[bool] = []

    def counted(refused: bool) -> Secret:
        asked.append(refused)
        return renew(refused)

    with (
        server(site) as port,
        dns_server({HOST: ["127.0.0.1"]}) as names,
        served({"FILE": counted}, {"FILE": Secret(FIRST)}) as channel,
        proxied(
            tmp_path,
            [f"{HOST}:{port} GET,POST", f"127.0.0.1:{port}"],
            channel=channel,
            authorities=str(certificate),
            resolver=names.address,
            reading=ReadingConfig(str(tmp_path / "authority"), str(bundle)),
            secrets=[
                ProxiedSecret("PLACEHOLDER-FILE", [HOST], str(tmp_path / "FILE"), "FILE", changes=True),
                ProxiedSecret("PLACEHOLDER-BODY", [HOST], str(tmp_path / "BODY"), "BODY", body=True),
            ],
        ) as proxy,
    ):
        wait_until(lambda: bundle.exists(), 30)
        yield World(proxy, site, port, bundle, asked)


def test_a_changed_file_is_in_the_next_request_and_in_no_log_or_process(world: World, path: Path) -> None:
    assert world.bearer() == FIRST
    path.write_text(f"{SECOND}\n")
    assert world.bearer() == SECOND
    new = path.with_name("new")
    new.write_text(THIRD)
    new.rename(path)
    assert world.bearer() == THIRD
    world.send(path=f"/{FIRST}/{SECOND}/{THIRD}")  # a value that the bottle got to see in an answer
    logged = json.dumps(world.proxy.log(4))
    assert "/***/***/***" in logged
    for value in (FIRST, SECOND, THIRD):
        assert value not in logged
        assert holders(value.encode()) == []


def test_a_file_that_cannot_be_used_leaves_the_last_value_and_is_said_once(
    world: World, path: Path, warnings: list[str]
) -> None:
    path.write_text(SECOND)
    assert world.bearer() == SECOND
    path.unlink()
    assert [world.bearer(), world.bearer()] == [SECOND, SECOND]
    for content, what in ((b"", "is empty"), (b"\xff", "not UTF-8"), (b"x" * (65 << 10), "too large")):
        path.write_bytes(content)
        assert [world.bearer(), world.bearer()] == [SECOND, SECOND]
        assert what in warnings[-1]
    assert [each.startswith("the secret FILE ") for each in warnings] == [True] * 4
    path.write_text(THIRD)
    assert world.bearer() == THIRD


def test_a_refused_value_is_said_with_the_next_question(world: World) -> None:
    world.site.status = 401
    world.send("-H", "X-Key: PLACEHOLDER-FILE")
    world.site.status = 200
    world.send("-H", "X-Key: PLACEHOLDER-FILE")
    world.send()
    assert world.refused == [False, True, False]


def test_a_request_without_the_placeholder_refuses_no_value(world: World) -> None:
    world.site.status = 401
    world.send("-H", "X-Key: of its own")
    world.send("-H", "X-Key: PLACEHOLDER-FILE")
    assert world.refused == [False, False]


BODIES = {
    "JSON": ("application/json; charset=utf-8", '{"key": "PLACEHOLDER-BODY"}', json.dumps({"key": SPECIAL})),
    "a form": (FORM, "key=PLACEHOLDER-BODY&x=1", "key=a+canary%22%5C%26%2B%C3%A9&x=1"),
    "text": ("text/plain", "PLACEHOLDER-BODY\n", f"{SPECIAL}\n"),
    "a secret without body": ("application/json", '"PLACEHOLDER-FILE"', '"PLACEHOLDER-FILE"'),
    "binary": ("application/octet-stream", "PLACEHOLDER-BODY", "PLACEHOLDER-BODY"),
}
CHUNKED = ("-H", "Transfer-Encoding: chunked")


def test_a_body_gets_the_value_where_the_secret_says_so(world: World) -> None:
    for case, (kind, data, arrives) in BODIES.items():
        head, body = world.send("-H", f"Content-Type: {kind}", "--data-binary", "@-", data=data)
        assert body.decode() == arrives, case
        assert f"content-length: {len(body)}\r\n" in head.lower(), case
        _, body = world.send(*CHUNKED, "-H", f"Content-Type: {kind}", "--data-binary", "@-", data=data)
        assert body.decode() == arrives, case
    assert SPECIAL not in json.dumps(world.proxy.log(2 * len(BODIES)))


def test_a_body_above_the_limit_is_passed_on_with_the_placeholder(world: World) -> None:
    data = b"PLACEHOLDER-BODY" + b"x" * LIMIT
    for extra in ((), CHUNKED):
        _, body = world.send(*extra, "-H", "Content-Type: text/plain", "--data-binary", "@-", data=data)
        assert body == data
    assert [(entry["verdict"], entry["up"]) for entry in world.proxy.log(2)] == [("allowed", len(data))] * 2
