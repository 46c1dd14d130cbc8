"""Malformed and hostile requests, made up by the thousand: each is refused, none is felt."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tests.support.bottle import Bottle
from tests.support.examples import MANY, tried
from tests.support.wire import Wire

from bot_bottle.image.spec import Digest

DIGEST = str(Digest.of(b"x"))

PARTS = st.sampled_from(
    [
        "v2", "app", "blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog", "..", ".", "",
        "latest", DIGEST, "sha256:", "sha512:" + "a" * 128, "%2e%2e", "%00", "%ff", "etc", "passwd", "A" * 99,
        "a" * 5000, "%s", "{}", "~root", "proc", "self", "%252e", "\u00e9", "?", "#",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "1e9",
            "9" * 400,
            "bytes=0-",
            "bytes=-1",
            "0-9",
            "9-0",
            "gzip",
            "100-continue",
            DIGEST,
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
)
NAMES = st.sampled_from(
    ["Range", "Content-Range", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Accept", "If-Range",
     "Expect", "Connection", "Upgrade", "Cookie", "X-Forwarded-For", "Host"]
)  # fmt: skip
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
QUERY_NAMES = st.sampled_from(
    ["digest", "mount", "from", "n", "last", "tag", "artifactType", "digest-algorithm"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    inside = draw(st.booleans())
    path = "/".join(draw(st.lists(PARTS, max_size=7)))
    path = f"/v2/PREFIX/{path}" if inside else f"/{path}"
    if query := draw(st.lists(st.tuples(QUERY_NAMES, VALUES), max_size=3)):
        path += "?" + "&".join(f"{name}={value}" for name, value in query)
    body = draw(st.binary(max_size=200))
    lines = [f"{draw(METHODS)} {path} HTTP/1.1", "Host: HOST", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))]
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return head.encode("utf-8", "replace") + body


class Target:
    """The registry under attack: a process of its own, so that what it costs can be told."""

    def __init__(self, wire: Wire, process: Path, cache: Path) -> None:
        self.wire = wire
        self.cache = cache
        self._process = process
        self.memory_before = self.memory

    def send(self, data: bytes) -> bytes:
        data = data.replace(b"PREFIX", self.wire.prefix.encode())
        data = data.replace(b"Host: HOST", f"Host: 127.0.0.1:{self.wire.port}".encode())
        with socket.create_connection(("127.0.0.1", self.wire.port), timeout=0.3) as connection:
            answer = b""
            try:
                connection.sendall(data)
                while piece := connection.recv(65536):
                    answer += piece
            except (TimeoutError, ConnectionError):
                pass  # it waits for the rest of a request that is not whole, or has had enough
        return answer

    @property
    def memory(self) -> int:
        """What it holds in memory, in bytes."""
        found = re.search(r"VmRSS:\s+(\d+) kB", (self._process / "status").read_text())
        assert found
        return int(found[1]) << 10

    @property
    def descriptors(self) -> int:
        return len(list((self._process / "fd").iterdir()))

    @property
    def threads(self) -> int:
        return len(list((self._process / "task").iterdir()))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    bottle = Bottle(tmp_path_factory.mktemp("hostile"))
    with bottle.start("registry", "--push", "--json") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        with Wire(int(said["registry"].partition(":")[2]), said["prefix"]) as wire:
            yield Target(wire, Path(f"/proc/{process.pid}"), bottle.cache)
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")
    assert not bottle.leftovers


def status(answer: bytes) -> int | None:
    """Give the status of an answer; None when the connection was just closed."""
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert found or not answer, answer
    return int(found[1]) if found else None


@pytest.mark.parametrize("count", MANY)
def test_requests_of_all_kinds_are_answered_without_a_fault(target: Target, count: int) -> None:
    def judge(data: bytes) -> None:
        answer = target.send(data)
        assert (status(answer) or 400) < 500, (data, answer)
        assert b"Traceback" not in answer
        assert b"root:" not in answer

    tried(requests(), count, judge)


@pytest.mark.parametrize("count", MANY)
def test_what_is_no_http_at_all_is_turned_away(target: Target, count: int) -> None:
    def judge(data: bytes) -> None:
        answer = target.send(data + b"\r\n\r\n")
        assert 400 <= (status(answer) or 400) < 500, (data, answer)
        assert b"Traceback" not in answer

    tried(st.binary(min_size=1, max_size=300), count, judge)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", b"400"),
        (b"GET /v2/ HTTP/1.1\r\nHost: HOST\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", b"400"),
        (b"PUT /v2/PREFIX/a/manifests/t HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"PUT /v2/PREFIX/a/manifests/t HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n", b"400"),
        (
            b"POST /v2/PREFIX/a/blobs/uploads/?digest=" + DIGEST.encode()
            + b" HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999999999\r\n\r\n",
            b"413",
        ),
        (b"GET /v2/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v2/ HTTP/1.0\r\n\r\n", b"421"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_refused_at_once(target: Target, data: bytes, wanted: bytes) -> None:
    answer = target.send(data)
    # a head that is far too large may be cut off before its answer arrives
    assert answer.split(b" ")[1:2] == [wanted] or (len(data) > 90_000 and not answer), answer[:200]
    assert target.wire.ask("GET", "/v2/").status == 200


def test_a_stream_of_a_manifest_without_end_is_cut(target: Target) -> None:
    head = f"PUT /v2/{target.wire.prefix}/app/manifests/big HTTP/1.1\r\n"
    head += f"Host: 127.0.0.1:{target.wire.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", target.wire.port), timeout=10) as connection:
        connection.sendall(head.encode())
        with pytest.raises(ConnectionError):
            while True:  # for as long as the registry lingers
                connection.sendall(chunk)


def test_registry_works_and_has_not_grown_after_hostile_requests(target: Target) -> None:
    """Runs last: what thousands of hostile requests left behind in the registry and on the disk."""
    assert target.memory - target.memory_before < 16 << 20
    assert target.descriptors < 100  # 64 uploads may be under way
    assert target.threads < 10
    digest = target.wire.push_blob(b"still here")
    assert target.wire.ask("GET", f"app/blobs/{digest}").body == b"still here"
    for path in target.cache.rglob("*"):
        assert path.is_relative_to(target.cache / "runs")
