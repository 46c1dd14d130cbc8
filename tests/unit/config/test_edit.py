"""Entries added to bottle.toml: the rest stays as its author wrote it, and it is whole or unchanged."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_bottle.config.edit import Snapshot, allow, take_snapshot
from bot_bottle.errors import SpecError

NEW = ("new.example.org:443", "pypi")

# a file, and what it is with the entries
FILES = [
    (None, '[egress]\nallow = [\n    "new.example.org:443",\n    "pypi",\n]\n'),
    ("", '[egress]\nallow = [\n    "new.example.org:443",\n    "pypi",\n]\n'),
    (
        "# ours\n[env]\n# DEBUG = '1'",
        '# ours\n[env]\n# DEBUG = \'1\'\n\n[egress]\nallow = [\n    "new.example.org:443",\n    "pypi",\n]\n',
    ),
    (
        '[egress]\nallow = ["a"]  # why\n\n[env]\nA="1"\n',
        '[egress]\nallow = ["a", "new.example.org:443", "pypi"]  # why\n\n[env]\nA="1"\n',
    ),
    (
        "[egress]\nallow = [\n  'a', # first\n  # none\n  'b'\n]\n",
        "[egress]\nallow = [\n  'a', # first\n  # none\n  'b',\n  \"new.example.org:443\",\n  \"pypi\"\n]\n",
    ),
    ('egress = {allow = ["a"]}\n', 'egress = {allow = ["a", "new.example.org:443", "pypi"]}\n'),
    (
        'egress.allow = ["a"] # x\nmemory="1g"\n',
        'egress.allow = ["a", "new.example.org:443", "pypi"] # x\nmemory="1g"\n',
    ),
    ("[egress]\r\nallow=[]\r\n[env]\r\n", '[egress]\r\nallow=["new.example.org:443", "pypi"]\r\n[env]\r\n'),
    ("\ufeff[egress]\nallow = []\n", '\ufeff[egress]\nallow = ["new.example.org:443", "pypi"]\n'),
]


@pytest.mark.parametrize(("before", "after"), FILES)
def test_entries_are_added_and_the_rest_stays(tmp_path: Path, before: str | None, after: str) -> None:
    path = tmp_path / "bottle.toml"
    if before is not None:
        path.write_bytes(before.encode())
    allow(take_snapshot(path), NEW)
    assert path.read_bytes().decode() == after
    assert [each.name for each in tmp_path.iterdir()] == ["bottle.toml"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=5))
def test_any_text_is_added_as_it_is(tmp_path_factory: pytest.TempPathFactory, entries: list[str]) -> None:
    path = tmp_path_factory.mktemp("project") / "bottle.toml"
    path.write_text('[egress]\nallow = ["a"]\n')
    allow(take_snapshot(path), entries)
    assert tomllib.loads(path.read_text())["egress"]["allow"] == ["a", *entries]


@pytest.mark.parametrize(
    "text", ["[egress]\nallow = 5\n", "egress = 5\n", "[egress\n", '[egress]\nallow = "a"\n']
)
def test_a_file_of_another_form_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bottle.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match="cannot add entries"):
        allow(take_snapshot(path), NEW)
    assert path.read_text() == text


def test_the_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "bottle.toml"
    path.write_text("")
    path.chmod(0o640)
    allow(take_snapshot(path), NEW)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "bottle.toml", tmp_path / "other"
    other.write_text("")
    path.symlink_to(other)
    with pytest.raises(SpecError, match="cannot write") as refused:
        take_snapshot(path)
    assert "symbolic link" in refused.value.why
    with pytest.raises(SpecError, match="cannot write"):
        allow(Snapshot(path, b""), NEW)
    assert path.is_symlink()
    assert other.read_text() == ""
    assert {each.name for each in tmp_path.iterdir()} == {"bottle.toml", "other"}


def test_a_folder_that_is_reached_by_a_link_is_not(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "project")
    allow(take_snapshot(tmp_path / "link" / "bottle.toml"), NEW)
    assert "pypi" in (tmp_path / "project" / "bottle.toml").read_text()


@pytest.mark.parametrize(("before", "now"), [("", "x = 1\n"), (None, ""), ("x = 1\n", None)])
def test_a_file_that_has_changed_meanwhile_is_left_alone(
    tmp_path: Path, before: str | None, now: str | None
) -> None:
    path = tmp_path / "bottle.toml"
    if before is not None:
        path.write_text(before)
    snapshot = take_snapshot(path)
    path.unlink(missing_ok=True)
    if now is not None:
        path.write_text(now)
    with pytest.raises(SpecError):
        allow(snapshot, NEW)
    assert [each.read_text() for each in tmp_path.iterdir()] == ([] if now is None else [now])


def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bottle.toml")
    with pytest.raises(SpecError, match="cannot write"):
        take_snapshot(tmp_path / "bottle.toml")


def test_what_a_killed_command_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".bottle.toml.partial").symlink_to(tmp_path / "other")
    allow(take_snapshot(tmp_path / "bottle.toml"), NEW)
    assert [each.name for each in tmp_path.iterdir()] == ["bottle.toml"]
