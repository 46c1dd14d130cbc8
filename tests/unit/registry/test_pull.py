"""OCI distribution-spec v1.1, "Pull": manifests, blobs, ranges, and whether they exist."""

from __future__ import annotations

import pytest
from tests.support.wire import OCI_MANIFEST, Wire, image

from bot_bottle.image.spec import Digest

NOBODY = Digest.of(b"nobody has this")


def test_the_base_says_that_this_is_a_registry(wire: Wire) -> None:
    for path in ("/v2/", "/v2"):
        answer = wire.ask("GET", path)
        assert (answer.status, answer.json) == (200, {})
    assert answer["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_manifest_comes_byte_for_byte(wire: Wire, method: str, by: str) -> None:
    document = b'{ "schemaVersion": 2,  "mediaType":"%s",\n "config": {"digest": "%s"} }'
    config = wire.push_blob(b"{}")
    data = document % (OCI_MANIFEST.encode(), str(config).encode())
    put = wire.ask("PUT", "app/manifests/v1", data, {"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"})
    assert put.status == 201
    answer = wire.ask(method, f"app/manifests/{'v1' if by == 'tag' else Digest.of(data)}")
    assert answer.status == 200
    assert answer["content-type"] == OCI_MANIFEST
    assert answer["docker-content-digest"] == str(Digest.of(data))
    assert answer["content-length"] == str(len(data))
    assert answer.body == (data if method == "GET" else b"")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", b"x", b"content" * 100_000])
def test_a_pulled_blob_has_the_bytes_of_its_digest(wire: Wire, algorithm: str, data: bytes) -> None:
    digest = wire.push_blob(data, algorithm=algorithm)
    got = wire.ask("GET", f"app/blobs/{digest}")
    head = wire.ask("HEAD", f"app/blobs/{digest}")
    assert (got.status, got.body) == (200, data)
    assert (head.status, head.body) == (200, b"")
    for answer in (got, head):
        assert answer["docker-content-digest"] == str(digest)
        assert answer["content-length"] == str(len(data))


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=5-2", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        # what a server may ignore, and this one does: several ranges, and what is none (RFC 9110, 14.2)
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=a-b", 200, b"0123456789", None),
        ("bytes=--1", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        (f"bytes=0-{'9' * 100}", 200, b"0123456789", None),
        ("bytes=0-\u0661", 200, b"0123456789", None),
    ],
)
def test_a_range_of_a_blob_is_served_as_http_has_it(
    wire: Wire, wanted: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    digest = wire.push_blob(b"0123456789")
    answer = wire.ask("GET", f"app/blobs/{digest}", headers={"Range": wanted.encode().decode("latin-1")})
    assert answer.status == status
    assert answer.headers.get("content-range") == content_range
    if body is not None:
        assert answer.body == body
        assert answer["content-length"] == str(len(body))


def test_a_range_of_something_that_has_changed_is_the_whole(wire: Wire) -> None:
    digest = wire.push_blob(b"0123456789")
    path = f"app/blobs/{digest}"
    etag = wire.ask("HEAD", path)["etag"]
    same = wire.ask("GET", path, headers={"Range": "bytes=0-1", "If-Range": etag})
    other = wire.ask("GET", path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (same.status, same.body) == (206, b"01")
    assert (other.status, other.body) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"app/blobs/{NOBODY}", 404, "BLOB_UNKNOWN"),
        (f"nobody/blobs/{NOBODY}", 404, "BLOB_UNKNOWN"),
        ("app/blobs/sha256:short", 400, "DIGEST_INVALID"),
        (f"app/blobs/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        (f"app/blobs/md5:{'a' * 32}", 400, "DIGEST_INVALID"),
        (f"app/manifests/{NOBODY}", 404, "MANIFEST_UNKNOWN"),
        ("app/manifests/nothing", 404, "MANIFEST_UNKNOWN"),
        ("nobody/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("app/manifests/sha256:short", 400, "DIGEST_INVALID"),
        ("app/manifests/.dot", 400, "MANIFEST_INVALID"),
        (f"app/manifests/{'t' * 129}", 400, "MANIFEST_INVALID"),
    ],
)
def test_what_is_not_there_is_answered_by_its_error(wire: Wire, path: str, status: int, code: str) -> None:
    wire.push_image("v1")
    answer = wire.ask("GET", path)
    assert (answer.status, answer.code) == (status, code)
    assert answer["content-type"] == "application/json"
    assert wire.ask("HEAD", path).status == status


def test_a_blob_of_another_repository_is_not_there(wire: Wire) -> None:
    digest = wire.push_blob(b"data", "one")
    assert wire.ask("GET", f"two/blobs/{digest}").status == 404


def test_a_manifest_cannot_be_pulled_as_a_blob(wire: Wire) -> None:
    digest = wire.push_manifest(image(wire.push_blob(b"{}")))
    assert wire.ask("GET", f"app/blobs/{digest}").status == 404
