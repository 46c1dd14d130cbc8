"""OCI distribution-spec v1.1, "Push": blobs in every way there is, mounts, manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.wire import OCI_INDEX, OCI_MANIFEST, Wire, image

from bot_bottle.image.spec import Digest

DATA = bytes(range(256)) * 20
NOBODY = Digest.of(b"nobody has this")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_pushed_by_post_and_put(wire: Wire, algorithm: str) -> None:
    digest = Digest.of(DATA, algorithm)
    answer = wire.ask("PUT", f"{wire.begin()}?digest={digest}", DATA)
    assert answer.status == 201
    assert answer["docker-content-digest"] == str(digest)
    assert wire.ask("GET", answer["location"]).body == DATA


def test_a_blob_is_pushed_by_a_single_post(wire: Wire) -> None:
    answer = wire.ask("POST", f"app/blobs/uploads/?digest={Digest.of(DATA)}", DATA)
    assert answer.status == 201
    assert wire.ask("GET", answer["location"]).body == DATA


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("last_by", ["PATCH", "PUT"])
@pytest.mark.parametrize("said", ["", "?digest-algorithm=sha512"])
def test_a_blob_is_pushed_by_chunks_in_order(wire: Wire, algorithm: str, last_by: str, said: str) -> None:
    location = wire.begin(query=said)
    chunks = [DATA[:2000], DATA[2000:2001], DATA[2001:]]
    end = -1
    for number, chunk in enumerate(chunks):
        if number == 2 and last_by == "PUT":
            break
        start, end = end + 1, end + len(chunk)
        answer = wire.ask("PATCH", location, chunk, {"Content-Range": f"{start}-{end}"})
        assert (answer.status, answer["range"]) == (202, f"0-{end}")
        location = answer["location"]
    left = chunks[2] if last_by == "PUT" else b""
    headers = {"Content-Range": f"{end + 1}-{end + len(left)}"} if left else {}
    answer = wire.ask("PUT", f"{location}?digest={Digest.of(DATA, algorithm)}", left, headers)
    assert answer.status == 201
    assert wire.ask("GET", answer["location"]).body == DATA


def test_a_blob_is_pushed_by_a_stream_without_length(wire: Wire) -> None:
    location = wire.begin()
    wire._connection.request("PATCH", location, iter([DATA[:100], DATA[100:]]), encode_chunked=True)
    answer = wire._connection.getresponse()
    answer.read()
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(DATA) - 1}")
    assert wire.ask("PUT", f"{location}?digest={Digest.of(DATA)}").status == 201


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("wanted", ["5-9", "0-9", "11-20", "9-5", "a-b", "-5", "10-", "10-1e9"])
def test_a_chunk_out_of_order_is_refused_and_the_upload_goes_on(wire: Wire, method: str, wanted: str) -> None:
    location = wire.begin()
    assert wire.ask("PATCH", location, DATA[:10], {"Content-Range": "0-9"}).status == 202
    path = f"{location}?digest={Digest.of(DATA)}" if method == "PUT" else location
    refused = wire.ask(method, path, b"12345", {"Content-Range": wanted})
    assert refused.status == 416
    assert refused["range"] == "0-9"
    status = wire.ask("GET", location)
    assert (status.status, status["range"], status.body) == (204, "0-9", b"")
    assert wire.ask("PATCH", status["location"], DATA[10:]).status == 202
    assert wire.ask("PUT", f"{location}?digest={Digest.of(DATA)}").status == 201


def test_a_chunk_that_is_not_as_long_as_it_says_is_refused(wire: Wire) -> None:
    location = wire.begin()
    answer = wire.ask("PATCH", location, b"12345", {"Content-Range": "0-9"})
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    assert wire.ask("GET", location).status == 204


def test_a_cancelled_upload_is_gone(wire: Wire) -> None:
    location = wire.begin()
    assert wire.ask("DELETE", location).status == 204
    for method in ("GET", "PATCH", "DELETE", "PUT"):
        answer = wire.ask(method, f"{location}?digest={NOBODY}")
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_belongs_to_its_repository(wire: Wire) -> None:
    location = wire.begin("one")
    assert wire.ask("GET", location.replace("/one/", "/two/")).status == 404


@pytest.mark.parametrize("way", ["post", "put", "patch"])
@pytest.mark.parametrize("digest", [str(NOBODY), "sha256:bad", "md5:abc", "", "sha512:" + "0" * 128])
def test_a_wrong_digest_is_refused_and_nothing_is_kept(wire: Wire, way: str, digest: str) -> None:
    if way == "post":
        answer = wire.ask("POST", f"app/blobs/uploads/?digest={digest}", DATA)
    else:
        location = wire.begin()
        if way == "patch":
            wire.ask("PATCH", location, DATA)
        answer = wire.ask("PUT", f"{location}?digest={digest}", DATA if way == "put" else b"")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert wire.ask("HEAD", f"app/blobs/{Digest.of(DATA)}").status == 404


def test_an_unknown_digest_algorithm_is_refused(wire: Wire) -> None:
    answer = wire.ask("POST", "app/blobs/uploads/?digest-algorithm=md5")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_expect_continue_is_answered_before_the_body(wire: Wire) -> None:
    digest = Digest.of(b"hello")
    head = (
        f"POST /v2/{wire.prefix}/app/blobs/uploads/?digest={digest} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{wire.port}\r\nContent-Length: 5\r\n"
        "Expect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answer = wire.raw(head.encode() + b"hello")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n")


def test_an_encoded_body_is_refused(wire: Wire) -> None:
    answer = wire.ask("PATCH", wire.begin(), b"zzz", {"Content-Encoding": "gzip"})
    assert (answer.status, answer.code) == (415, "UNSUPPORTED")


@pytest.mark.parametrize("source", ["&from={prefix}/one", ""])
def test_a_blob_is_mounted_from_another_repository(wire: Wire, source: str) -> None:
    digest = wire.push_blob(DATA, "one")
    query = f"?mount={digest}{source.format(prefix=wire.prefix)}"
    answer = wire.ask("POST", f"two/blobs/uploads/{query}")
    assert answer.status == 201
    assert wire.ask("GET", answer["location"]).body == DATA


@pytest.mark.parametrize("source", ["&from={prefix}/empty", "&from=elsewhere/one", ""])
def test_a_mount_of_what_is_not_there_begins_an_upload(wire: Wire, source: str) -> None:
    answer = wire.ask("POST", f"two/blobs/uploads/?mount={NOBODY}{source.format(prefix=wire.prefix)}")
    assert answer.status == 202
    assert wire.ask("PUT", f"{answer['location']}?digest={Digest.of(DATA)}", DATA).status == 201


def test_uploads_at_once_are_bounded(wire: Wire) -> None:
    for _ in range(64):
        wire.begin()
    answer = wire.ask("POST", "app/blobs/uploads/")
    assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")


def test_tags_given_with_a_digest_name_the_manifest(wire: Wire) -> None:
    data = json.dumps(image(wire.push_blob(b"{}"))).encode()
    path = f"app/manifests/{Digest.of(data)}?tag=a&tag=b"
    answer = wire.ask("PUT", path, data, {"Content-Type": OCI_MANIFEST})
    assert (answer.status, answer["oci-tag"]) == (201, "a, b")
    assert wire.ask("GET", "app/manifests/b").body == data


def test_a_tag_moves(wire: Wire) -> None:
    first = wire.push_image("v1")
    second = wire.push_image("v1", annotations={"n": "2"})
    assert wire.ask("HEAD", "app/manifests/v1")["docker-content-digest"] == str(second)
    assert wire.ask("GET", f"app/manifests/{first}").status == 200


def test_a_subject_is_answered_even_if_it_is_missing(wire: Wire) -> None:
    document = image(wire.push_blob(b"{}"), subject={"digest": str(NOBODY)})
    answer = wire.ask(
        "PUT", "app/manifests/sig", json.dumps(document).encode(), {"Content-Type": OCI_MANIFEST}
    )
    assert (answer.status, answer["oci-subject"]) == (201, str(NOBODY))


def test_an_index_may_list_what_is_not_there(wire: Wire) -> None:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"digest": str(NOBODY)}]}
    assert wire.push_manifest(document, "multi")


def test_layers_that_are_kept_elsewhere_need_not_be_pushed(wire: Wire) -> None:
    document = image(wire.push_blob(b"{}"))
    document["layers"] = [
        {"digest": str(NOBODY), "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"},
        {"digest": str(NOBODY), "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
    ]
    assert wire.push_manifest(document, "windows")


GOOD = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {"digest": str(Digest.of(b"{}"))}}


@pytest.mark.parametrize(
    ("document", "media_type", "code"),
    [
        (image(NOBODY), OCI_MANIFEST, "MANIFEST_BLOB_UNKNOWN"),
        (image(Digest.of(b"{}"), NOBODY), OCI_MANIFEST, None),
        ({**GOOD, "schemaVersion": 1}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "config": None}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "config": {"digest": "sha256:x"}}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "config": {"digest": 7}}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "layers": {}}, OCI_MANIFEST, None),
        ({**GOOD, "layers": {"a": 1}}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "layers": [1]}, OCI_MANIFEST, "MANIFEST_INVALID"),
        ({**GOOD, "subject": "me"}, OCI_MANIFEST, "MANIFEST_INVALID"),
        (GOOD, OCI_INDEX, "MANIFEST_INVALID"),
        (GOOD, "text/plain", "MANIFEST_INVALID"),
        ({**GOOD, "mediaType": []}, "", "MANIFEST_INVALID"),
        (GOOD, "", None),
        ([GOOD], OCI_MANIFEST, "MANIFEST_INVALID"),
        ("not json", OCI_MANIFEST, "MANIFEST_INVALID"),
        ("", OCI_MANIFEST, "MANIFEST_INVALID"),
        ("[" * 100_000, OCI_MANIFEST, "MANIFEST_INVALID"),
        ("1" * 100_000, OCI_MANIFEST, "MANIFEST_INVALID"),
    ],
)
def test_a_pushed_manifest_that_is_invalid_is_refused(
    wire: Wire, document: Any, media_type: str, code: str | None
) -> None:
    wire.push_blob(b"{}")
    data = document if isinstance(document, str) else json.dumps(document)
    answer = wire.ask("PUT", "app/manifests/v1", data.encode(), {"Content-Type": media_type})
    if code is None:
        assert answer.status == 201
    else:
        assert (answer.status, answer.code) == (400, code)
        assert wire.ask("GET", "app/manifests/v1").status == 404


def test_a_manifest_under_another_digest_is_refused(wire: Wire) -> None:
    data = json.dumps(image(wire.push_blob(b"{}"))).encode()
    answer = wire.ask("PUT", f"app/manifests/{NOBODY}", data, {"Content-Type": OCI_MANIFEST})
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(("extra", "status"), [(0, 201), (1, 413)])
def test_a_manifest_of_4_megabytes_is_taken_and_a_larger_one_refused(
    wire: Wire, extra: int, status: int
) -> None:
    document = image(wire.push_blob(b"{}"), annotations={"x": ""})
    room = (4 << 20) - len(json.dumps(document))
    document["annotations"]["x"] = "x" * (room + extra)
    data = json.dumps(document).encode()
    answer = wire.ask("PUT", "app/manifests/big", data, {"Content-Type": OCI_MANIFEST})
    assert answer.status == status
    if status == 201:
        assert wire.ask("GET", "app/manifests/big").body == data
