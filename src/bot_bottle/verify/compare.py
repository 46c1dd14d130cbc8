"""An image's tree against an artifact's: what differs, and whether that is expected.

The rules of what is expected are those of smolvm 1.32.2, which unpacks a layer on the host: it skips devices,
FIFOs and extended attributes, gives symlinks to root, reads whole seconds, and refuses links to the root or
above it. They are written here a second time on purpose, apart from the packer's own
(rootfs/smolvm_compat.py), so that a mistake there shows as a difference here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

from bot_bottle.image.spec import ImageConfig
from bot_bottle.rootfs.tree import PATH_MAX
from bot_bottle.smolmachine.manifest import Manifest
from bot_bottle.verify.entries import EntryMetadata
from bot_bottle.verify.findings import Findings
from bot_bottle.verify.table import Tree, refused_link

_LONGEST_PATH = 3500  # bytes; smolvm adds its own folder before a path, and the host's limit is 4095

_SPECIAL = "smolvm's extraction skips devices and FIFOs"
_DEV = "the guest fills /dev itself"
_LONG = "smolvm adds its own folder before each path, and the host's limit is 4095 bytes"
_LONG_LINK = "without `..`, as smolvm needs it, it would be too long for a link"
_LINK = "smolvm refuses the image's form; this one leads to the same place"
_LINK_OWNER = "smolvm's extraction gives symlinks to root"
_XATTRS = "smolvm's extraction skips extended attributes"
_SECONDS = "smolvm's extraction reads whole seconds"
_NOT_EXPECTED = "nothing explains it"


def compare_trees(image: Tree, artifact: Tree, found: Findings) -> None:
    """Compare every path of two trees."""
    for path, ours, theirs in _side_by_side(image, artifact):
        if theirs is None and ours is not None:
            _missing(image, path, ours, found)
        elif ours is None and theirs is not None:
            found.unexpected("only in the artifact", _NOT_EXPECTED, path, artifact=theirs.kind)
        elif ours is not None and theirs is not None:
            _both(image, path, ours, theirs, found)


def compare_hard_links(connection: sqlite3.Connection, image: Tree, artifact: Tree, found: Findings) -> None:
    """Compare which names are one file, among those that both trees have."""
    for tree, other in ((image, artifact), (artifact, image)):
        connection.execute(tree.groups_query(f"{tree.name}_groups", other))
    ours, theirs = f"{image.name}_groups", f"{artifact.name}_groups"
    query = f"""
        SELECT path, o.first, t.first FROM {ours} o LEFT JOIN {theirs} t USING (path)
            WHERE o.first IS NOT t.first
        UNION ALL
        SELECT path, NULL, t.first FROM {theirs} t WHERE path NOT IN (SELECT path FROM {ours})
        ORDER BY path"""  # noqa: S608 - the names are our own
    for path, first, other_first in connection.execute(query):
        found.unexpected("hard links", _NOT_EXPECTED, path, _one_with(first), _one_with(other_first))


def compare_config(image_id: str, config: ImageConfig, manifest: Manifest, found: Findings) -> None:
    """Compare the settings with which the image and the artifact run."""
    env = tuple(entry for entry in config.env if "=" in entry)
    settings = (
        ("image id", image_id, manifest.digest),
        ("platform", f"{config.platform.os}/{config.platform.architecture}", manifest.platform),
        ("entrypoint", config.entrypoint, manifest.entrypoint),
        ("cmd", config.cmd, manifest.cmd),
        ("env", env, manifest.env),
        ("workdir", config.workdir, manifest.workdir),
        ("user", config.user, manifest.user),
    )
    for name, ours, theirs in settings:
        if ours != theirs:
            found.unexpected("setting", _NOT_EXPECTED, name, _listed(ours), _listed(theirs))
    for entry in config.env:
        if "=" not in entry:
            found.expected("setting", "container engines leave out what is not NAME=VALUE", "env", entry)


def _side_by_side(
    image: Tree, artifact: Tree
) -> Iterator[tuple[bytes, EntryMetadata | None, EntryMetadata | None]]:
    left, right = image.all(), artifact.all()
    ours, theirs = next(left, None), next(right, None)
    while ours or theirs:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None  # noqa: S101 - one of them is set
            yield ours[0], ours[1], None
            ours = next(left, None)
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], None, theirs[1]
            theirs = next(right, None)
        else:
            yield ours[0], ours[1], theirs[1]
            ours, theirs = next(left, None), next(right, None)


def _missing(image: Tree, path: bytes, ours: EntryMetadata, found: Findings) -> None:
    what = f"{ours.kind} left out"
    if ours.special:
        found.expected(what, _DEV if path.startswith(b"dev/") else _SPECIAL, path)
    elif len(path) > _LONGEST_PATH:
        found.expected(what, _LONG, path)
    elif ours.kind == "symlink" and refused_link(path, ours.link) and _is_long(image, path, ours.link):
        found.expected(what, _LONG_LINK, path)
    else:
        found.unexpected(what, _NOT_EXPECTED, path)


def _is_long(image: Tree, path: bytes, link: bytes) -> bool:
    return len(b"/".join((b"", *image.leads_to(path, link)))) > PATH_MAX


def _both(image: Tree, path: bytes, ours: EntryMetadata, theirs: EntryMetadata, found: Findings) -> None:
    if ours.kind != theirs.kind:
        found.unexpected("type", _NOT_EXPECTED, path, ours.kind, theirs.kind)
        return
    if ours.special:
        found.expected(f"{ours.kind} left out", _DEV if path.startswith(b"dev/") else _SPECIAL, path)
    for name in ("mode", "size", "content", "device"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            form = oct if name == "mode" else str
            found.unexpected(name, _NOT_EXPECTED, path, form(mine), form(other))
    _owner(path, ours, theirs, found)
    _time(path, ours, theirs, found)
    _xattrs(path, ours, theirs, found)
    _link(image, path, ours, theirs, found)


def _owner(path: bytes, ours: EntryMetadata, theirs: EntryMetadata, found: Findings) -> None:
    mine, other = f"{ours.uid}:{ours.gid}", f"{theirs.uid}:{theirs.gid}"
    if mine != other:
        found.unexpected("owner", _NOT_EXPECTED, path, mine, other)
    elif ours.kind == "symlink" and mine != "0:0":
        found.expected("owner of a symlink", _LINK_OWNER, path, mine, "0:0")


def _time(path: bytes, ours: EntryMetadata, theirs: EntryMetadata, found: Findings) -> None:
    seconds = ours.mtime.partition(".")[0]
    if theirs.mtime not in (ours.mtime, seconds):
        found.unexpected("time", _NOT_EXPECTED, path, ours.mtime, theirs.mtime)
    elif ours.mtime != seconds:
        found.expected("part of a second", _SECONDS, path, ours.mtime, seconds)


def _xattrs(path: bytes, ours: EntryMetadata, theirs: EntryMetadata, found: Findings) -> None:
    if theirs.xattrs not in (ours.xattrs, "{}"):
        found.unexpected("extended attributes", _NOT_EXPECTED, path, _names(ours), _names(theirs))
        return
    for name in json.loads(ours.xattrs):
        capability = name == "security.capability"
        found.expected("file capability" if capability else "extended attribute", _XATTRS, path, name)


def _link(image: Tree, path: bytes, ours: EntryMetadata, theirs: EntryMetadata, found: Findings) -> None:
    if ours.link == theirs.link:
        return
    same = image.leads_to(path, ours.link) == image.leads_to(path, theirs.link)
    if same and refused_link(path, ours.link):
        found.expected("link written in another form", _LINK, path, ours.link, theirs.link)
    else:
        why = "it leads to the same place" if same else "it leads to another place"
        found.unexpected("link target", why, path, ours.link, theirs.link)


def _names(facts: EntryMetadata) -> str:
    """Return the names of attributes, with the start of their values' hashes, so that a change shows."""
    return ", ".join(f"{name} ({value[:8]})" for name, value in json.loads(facts.xattrs).items()) or "none"


def _one_with(first: bytes | None) -> bytes:
    return b"a file of its own" if first is None else b"one with /" + first


def _listed(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
