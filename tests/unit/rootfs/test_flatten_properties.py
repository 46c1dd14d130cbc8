"""What holds of every image, whatever its layers are: tried with many made up."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import event
from hypothesis import strategies as st
from tests.support.crafted import (
    Member,
    brief,
    device,
    fifo,
    file,
    folder,
    hardlink,
    layer,
    saved,
    symlink,
)
from tests.support.examples import FEW, tried

from bot_bottle.errors import ImageError
from bot_bottle.image.archive import open_archive
from bot_bottle.rootfs.flatten import flatten

WORDS = st.sampled_from(
    ["a", "b", "c", "d" * 120, "\udc80\n", ".wh.a", ".wh.b", ".wh..wh..opq", "..", ".", ""]
)
PATHS = st.lists(WORDS, min_size=1, max_size=4).map("/".join).filter(bool)
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.binary(max_size=600)),
    st.builds(folder, PATHS, st.integers(0, 0o7777)),
    st.builds(symlink, PATHS, PATHS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(fifo, PATHS),
    st.builds(device, PATHS, st.integers(0, 4), st.integers(0, 4)),
)
LAYERS = st.lists(st.lists(MEMBERS, max_size=8), min_size=1, max_size=3)


def flattened(*layers: bytes, portable: bool) -> bytes:
    """Flatten layers as they come out of an archive."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "image.tar"
        path.write_bytes(saved(*layers))
        with open_archive(path) as image:
            root = flatten(image, portable=portable)
            data = b"".join(root.chunks())
            assert len(data) == root.size
            return data


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("count", FEW)
def test_any_image_is_refused_or_gives_what_can_be_unpacked_in_order(count: int, portable: bool) -> None:
    def judge(layers: list[list[Member]]) -> None:
        try:
            data = flattened(*map(layer, layers), portable=portable)
        except ImageError:
            event("refused")
            return
        kinds = unpacked(data)
        assert not portable or set(kinds.values()) <= {tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE}
        if not any(word.startswith(".wh.") for name in kinds for word in name.split("/")):
            event("flattened again")
            assert flattened(data, portable=portable) == data

    tried(LAYERS, count, judge)


def unpacked(data: bytes) -> dict[str, bytes]:
    """Go through a tar as one who unpacks it, and hold that every name is new and has its place."""
    there: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            above, _, _ = member.name.rpartition("/")
            assert not {"", ".", ".."} & set(member.name.split("/"))
            assert member.name not in there
            assert not above or there[above] == tarfile.DIRTYPE
            there[member.name] = there[member.linkname] if member.islnk() else member.type
    return there


NAMES = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "b/a/a"]
KINDS = ["file", "folder", "link", "whiteout", "opaque", ""]
CHANGES = st.fixed_dictionaries(dict.fromkeys(NAMES, st.sampled_from(KINDS)))


def applied(
    below: dict[str, bytes | str], changes: dict[str, str]
) -> tuple[dict[str, bytes | str], list[Member]]:
    """Apply changes as image-spec's layer.md has it, on a dictionary; give it, and the layer's members.

    In a layer a name has one change at most, and what lies in a folder needs that folder in the layer.
    """
    shows, members = dict(below), list[Member]()
    made = {""}
    for name in sorted(changes):
        kind, (above, _, last) = changes[name], name.rpartition("/")
        if not kind or above not in made:
            continue
        if kind != "folder" or shows.get(name) != "/":
            shows = {each: what for each, what in shows.items() if not f"{each}/".startswith(f"{name}/")}
        if kind == "whiteout":
            members.append(file(f"{above}/.wh.{last}".lstrip("/"), b""))
        elif kind == "file":
            shows[name] = repr(sorted(changes.items())).encode()
            members.append(file(name, repr(sorted(changes.items())).encode()))
        elif kind == "link":
            shows[name] = f"-> {changes}"
            members.append(symlink(name, f"{changes}"))
        else:
            shows[name] = "/"
            made.add(name)
            members.append(folder(name))
            members += [file(f"{name}/.wh..wh..opq", b"")] if kind == "opaque" else []
    return shows, members


@pytest.mark.parametrize("count", FEW)
def test_layers_hide_and_replace_as_the_specification_has_it(count: int) -> None:
    def judge(stack: list[dict[str, str]]) -> None:
        shows: dict[str, bytes | str] = {}
        layers = []
        for changes in stack:
            shows, members = applied(shows, changes)
            layers.append(layer(members))
        assert brief(flattened(*layers, portable=False)) == shows

    tried(st.lists(CHANGES, min_size=1, max_size=4), count, judge)
