"""What identifies an image: the engine's word for it, and a fingerprint of what it says of the content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.fake_engines import Fake, engine, fails, says

from bot_bottle.engine.engine import NoSuchImageError
from bot_bottle.engine.identity import fingerprint, image_of
from bot_bottle.errors import EngineError
from bot_bottle.image.spec import Digest

MANIFEST, INDEX = str(Digest.of(b"manifest")), str(Digest.of(b"index"))
INSPECTED: dict[str, Any] = {
    "Id": MANIFEST,
    "RepoTags": ["app:1"],
    "RepoDigests": [f"app@{MANIFEST}"],
    "Created": "2026-11-28T07:00:00.123456789Z",
    "Author": "",
    "Config": {"Env": ["A=1"], "Cmd": ["sh"], "Labels": None},
    "Architecture": "amd64",
    "Os": "linux",
    "Size": 1234,
    "RootFS": {"Type": "layers", "Layers": [str(Digest.of(b"layer"))]},
    "Metadata": {"LastTagTime": "2026-11-28T07:00:01Z"},
}
# what changes when the image is tagged again, attested, or moved to another store
ELSEWHERE = {
    "Id": INDEX,
    "RepoTags": ["other:2", "app:1"],
    "RepoDigests": [],
    "Size": 99,
    "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": "/x"}},
    "Descriptor": {"digest": INDEX, "size": 855},
    "Metadata": {"LastTagTime": "2026-11-28T08:00:00Z"},
}
OTHERS = {
    "Created": "2026-11-28T07:00:00.123456780Z",
    "Author": "somebody",
    "Config": {"Env": ["A=2"], "Cmd": ["sh"], "Labels": None},
    "Architecture": "arm64",
    "Os": "windows",
    "RootFS": {"Type": "layers", "Layers": [str(Digest.of(b"another layer"))]},
    "Variant": "v8",
}


HISTORY = [
    {
        "ID": MANIFEST,
        "CreatedBy": "RUN a",
        "CreatedAt": "2026-11-28T07:00:00Z",
        "CreatedSince": "1 minute ago",
        "Comment": "buildkit.dockerfile.v0",
        "Size": "12kB",
    },
    {"ID": "<missing>", "CreatedBy": "COPY b", "CreatedAt": "2026-11-28T06:59:59Z", "Comment": ""},
]


def told(inspected: dict[str, Any], history: list[dict[str, str]] = HISTORY) -> str:
    return fingerprint(image_of(MANIFEST, inspected), history)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_and_places_do_not_change_the_fingerprint(name: str) -> None:
    assert told(INSPECTED | {name: ELSEWHERE[name]}) == told(INSPECTED)


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_config_holds_changes_it(name: str) -> None:
    assert told(INSPECTED | {name: OTHERS[name]}) != told(INSPECTED)


def test_the_order_of_the_answer_does_not_change_it() -> None:
    assert told(dict(reversed(INSPECTED.items()))) == told(INSPECTED)


@pytest.mark.parametrize("name", ["Comment", "CreatedAt", "CreatedBy"])
def test_the_history_is_part_of_it(name: str) -> None:
    first, *rest = HISTORY
    assert told(INSPECTED, [first | {name: "other"}, *rest]) != told(INSPECTED)
    assert told(INSPECTED, rest) != told(INSPECTED)


@pytest.mark.parametrize("name", ["ID", "CreatedSince", "Size"])
def test_ages_in_the_history_do_not_change_the_fingerprint(name: str) -> None:
    assert told(INSPECTED, [step | {name: "other"} for step in HISTORY]) == told(INSPECTED)


def test_the_fingerprint_is_made_of_the_engines_answers(fake: Fake) -> None:
    lines = "\n".join(json.dumps(step) for step in HISTORY)
    inspected = says(json.dumps([INSPECTED]))
    docker = engine(fake("docker", f'if [ "$1" = history ]; then\n{says(lines)}\nelse\n{inspected}\nfi'))
    image = docker.image("app:1")
    assert (image.id, image.config_digest) == (MANIFEST, None)
    assert docker.fingerprint(image) == told(INSPECTED)


def test_podmans_id_without_an_algorithm_is_a_sha256(fake: Fake) -> None:
    bare = [INSPECTED | {"Id": MANIFEST.removeprefix("sha256:")}]
    assert engine(fake("podman", says(json.dumps(bare))), "podman").image("app:1").id == MANIFEST


@pytest.mark.parametrize("said", ["latest", "", None, 7, "sha256:xyz", "sha256:../..", ["a"]])
def test_an_id_that_is_none_is_an_error(fake: Fake, said: object) -> None:
    with pytest.raises(EngineError, match="image id"):
        engine(fake("docker", says(json.dumps([INSPECTED | {"Id": said}])))).image("app:1")


def test_an_image_that_is_not_there_is_an_error(fake: Fake) -> None:
    with pytest.raises(NoSuchImageError, match="app:1"):
        engine(fake("docker", fails("Error: No such image: app:1"))).image("app:1")
