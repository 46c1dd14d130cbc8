"""The cache key: its name, and what differs between two."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bot_bottle.cache.key import Key, stem_of
from bot_bottle.image.spec import Digest
from bot_bottle.structs import replace

OTHERS: dict[str, Any] = {
    "config_digest": Digest.of(b"other"),
    "platform": "linux/arm64",
    "packer": "smolvm",
    "smolvm_version": "1.33.0",
    "format_version": 2,
    "flatten_version": 2,
    "options": (("cpus", "2"),),
}
RECORDED = {"config_digest": "image_id"}  # the names in records that are not those of the parts


def test_the_name_is_stable(key: Key) -> None:
    assert key.name == "6105d6cc76af4003-e8d5be8beeab3ced.smolmachine"


@pytest.mark.parametrize("part", OTHERS)
def test_every_part_changes_the_name(key: Key, part: str) -> None:
    other = replace(key, **{part: OTHERS[part]})
    assert other.name != key.name
    [change] = key.changes(other)
    assert change.part == {"options": "option cpus"}.get(part, part)


def test_the_order_of_options_does_not_matter(key: Key) -> None:
    one = replace(key, options=(("a", "1"), ("b", "2")))
    assert one == replace(key, options=(("b", "2"), ("a", "1")))


def test_changes_name_old_and_new(key: Key) -> None:
    new = replace(key, smolvm_version="2.0.0", options=(("name", "x"),))
    assert [str(change) for change in key.changes(new)] == [
        "smolvm version: 1.32.2 -> 2.0.0",
        "option name: (none) -> x",
    ]
    assert key.changes(key) == ()


def test_a_key_comes_back_from_json(key: Key) -> None:
    full = replace(key, options=(("a", "1"), ("b", "2")))
    assert Key.parse(json.loads(json.dumps(full.document()))) == full


@pytest.mark.parametrize("value", [None, 1, True, [], {}, "", "sha256:x", {"a": 1}])
@pytest.mark.parametrize("part", OTHERS)
def test_garbage_is_no_key(key: Key, part: str, value: Any) -> None:
    document = {**key.document(), RECORDED.get(part, part): value}
    parsed = Key.parse(document)
    assert parsed is None or parsed.document() == document
    if value is None or (isinstance(value, str) and part == "config_digest"):
        assert parsed is None


@pytest.mark.parametrize("value", [None, 1, "x", [], {}])
def test_what_is_no_object_is_no_key(value: Any) -> None:
    assert Key.parse(value) is None


def test_only_the_caches_own_names_have_a_stem(key: Key) -> None:
    own = [f"{key.stem}{end}" for end in (".smolmachine", ".json", ".parts", ".lock", ".a_b9.tmp")]
    assert {stem_of(name) for name in own} == {key.stem}
    foreign = [
        "notes.txt",
        key.stem,
        f"{key.stem}.smolmachine.bak",
        f"x{key.stem}.json",
        f"{key.stem}.json\n",
        f"{key.stem.upper()}.json",
        f"{key.stem}..tmp",
        ".smolmachine",
    ]
    assert [stem_of(name) for name in foreign] == [None] * len(foreign)
