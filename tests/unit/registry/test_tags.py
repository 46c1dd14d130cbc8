"""OCI distribution-spec v1.1, "Content Discovery" and "Content Management"."""

from __future__ import annotations

import re

import pytest
from tests.support.wire import OCI_INDEX, OCI_MANIFEST, Wire, image

from bot_bottle.image.spec import Digest

NOBODY = Digest.of(b"nobody has this")
TAGS = ["B", "a", "a.1", "latest", "v1", "v10", "v2"]  # in the order of their bytes


@pytest.mark.parametrize(
    ("query", "tags", "more"),
    [
        ("", TAGS, None),
        ("?n=3", TAGS[:3], "a.1"),
        ("?n=7", TAGS, None),
        ("?n=100", TAGS, None),
        ("?n=0", [], None),
        ("?n=2&last=a.1", ["latest", "v1"], "v1"),
        ("?last=v1", ["v10", "v2"], None),
        ("?last=between", ["latest", "v1", "v10", "v2"], None),
        ("?last=zzz", [], None),
        ("?last=", TAGS, None),
    ],
)
def test_tags_come_in_pages(wire: Wire, query: str, tags: list[str], more: str | None) -> None:
    for tag in reversed(TAGS):
        wire.push_image(tag)
    answer = wire.ask("GET", f"app/tags/list{query}")
    assert answer.status == 200
    assert answer.json == {"name": f"{wire.prefix}/app", "tags": tags}
    link = answer.headers.get("link")
    assert (link is None) == (more is None)
    if link is not None:
        assert re.fullmatch(rf'<[^>]*[?&]last={more}>; rel="next"', link)


def test_following_the_links_gives_every_tag_once(wire: Wire) -> None:
    for tag in TAGS:
        wire.push_image(tag)
    path, seen = "app/tags/list?n=2", []
    for _ in range(len(TAGS)):
        answer = wire.ask("GET", path)
        seen += answer.json["tags"]
        if "link" not in answer.headers:
            break
        path = answer["link"].partition(">")[0].removeprefix("<")
    assert seen == TAGS


@pytest.mark.parametrize("query", ["?n=-1", "?n=x", "?n=", "?n=1e3", "?n=" + "9" * 5000])
def test_a_page_size_that_is_not_a_number_is_refused(wire: Wire, query: str) -> None:
    wire.push_image("v1")
    answer = wire.ask("GET", f"app/tags/list{query}")
    assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")


def test_tags_of_an_unknown_repository_are_not_found(wire: Wire) -> None:
    answer = wire.ask("GET", "nobody/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


def test_referrers_carry_type_and_annotations(wire: Wire) -> None:
    subject = wire.push_image("v1")
    to = {"subject": {"digest": str(subject), "size": 1, "mediaType": OCI_MANIFEST}}
    config = wire.push_blob(b"{}")
    typed = wire.push_manifest(image(config, artifactType="text/sig", annotations={"a": "1"}, **to))
    untyped = wire.push_manifest(image(config, **to))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    listed = wire.push_manifest({**index, **to})
    answer = wire.ask("GET", f"app/referrers/{subject}")
    assert (answer.status, answer["content-type"]) == (200, OCI_INDEX)
    assert answer.json["mediaType"] == OCI_INDEX
    assert answer.json["schemaVersion"] == 2
    found = {each["digest"]: each for each in answer.json["manifests"]}
    assert found.keys() == {str(typed), str(untyped), str(listed)}
    assert found[str(typed)]["artifactType"] == "text/sig"
    assert found[str(typed)]["annotations"] == {"a": "1"}
    assert found[str(untyped)]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    assert "artifactType" not in found[str(listed)]
    assert found[str(listed)]["mediaType"] == OCI_INDEX
    for digest, each in found.items():
        assert each["size"] == len(wire.ask("GET", f"app/manifests/{digest}").body)
    filtered = wire.ask("GET", f"app/referrers/{subject}?artifactType=text/sig")
    assert filtered["oci-filters-applied"] == "artifactType"
    assert [each["digest"] for each in filtered.json["manifests"]] == [str(typed)]


def test_many_referrers_come_in_pages(wire: Wire) -> None:
    subject = {"digest": str(NOBODY), "size": 1, "mediaType": OCI_MANIFEST}
    config = wire.push_blob(b"{}")
    text = "x" * (1 << 20)
    pushed = {
        str(wire.push_manifest(image(config, subject=subject, annotations={"n": str(n), "text": text})))
        for n in range(6)
    }
    path, seen, pages = f"app/referrers/{NOBODY}", [], 0
    while path and pages < 10:
        answer = wire.ask("GET", path)
        pages += 1
        assert len(answer.body) < 6 << 20
        seen += [each["digest"] for each in answer.json["manifests"]]
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert sorted(seen) == sorted(pushed)
    assert pages == 2


@pytest.mark.parametrize(("reference", "status"), [(str(NOBODY), 200), ("sha256:x", 400), ("tag", 400)])
def test_referrers_of_an_unknown_manifest_are_an_empty_list(wire: Wire, reference: str, status: int) -> None:
    for repository in ("app", "nobody"):
        answer = wire.ask("GET", f"{repository}/referrers/{reference}")
        assert answer.status == status
        if status == 200:
            assert answer.json["manifests"] == []


def test_deleting_a_tag_leaves_the_manifest(wire: Wire) -> None:
    digest = wire.push_image("v1")
    assert wire.ask("DELETE", "app/manifests/v1").status == 202
    assert wire.ask("GET", "app/manifests/v1").status == 404
    assert wire.ask("GET", f"app/manifests/{digest}").status == 200
    assert wire.ask("DELETE", "app/manifests/v1").status == 404


def test_deleting_a_manifest_takes_its_tags_and_its_place_among_referrers(wire: Wire) -> None:
    subject = wire.push_image("v1")
    digest = wire.push_image("sig", subject={"digest": str(subject)})
    assert wire.ask("DELETE", f"app/manifests/{digest}").status == 202
    assert wire.ask("GET", f"app/manifests/{digest}").status == 404
    assert wire.ask("GET", "app/manifests/sig").status == 404
    assert wire.ask("GET", f"app/referrers/{subject}").json["manifests"] == []
    assert wire.ask("GET", "app/tags/list").json["tags"] == ["v1"]


def test_deleting_a_blob_leaves_it_in_other_repositories(wire: Wire) -> None:
    digest = wire.push_blob(b"shared", "one")
    wire.push_blob(b"shared", "two")
    assert wire.ask("DELETE", f"one/blobs/{digest}").status == 202
    assert wire.ask("GET", f"one/blobs/{digest}").status == 404
    assert wire.ask("GET", f"two/blobs/{digest}").body == b"shared"
    assert wire.ask("DELETE", f"two/blobs/{digest}").status == 202
    assert wire.ask("DELETE", f"two/blobs/{digest}").status == 404
