"""Where umoci and the engines' exports differ from our tree, each with its reason.

Every reason stands in docs/fidelity.md in these words. What no reason covers is a defect, of ours perhaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.corpus.crafted import HOMES
from tests.corpus.trees import Node, Tree, shown

IN_CONTAINERD = " (containerd image store)"  # added to how a docker shows a tree
STARTED = int(time.time()) - 1
ALL = frozenset({"missing", "extra", *Node._fields})


@dataclass(frozen=True)
class Pair:
    """One path in an image's two trees, ours and that of a witness."""

    image: str
    path: bytes
    ours: Node | None
    theirs: Node | None

    @property
    def differs(self) -> frozenset[str]:
        """What differs: fields of the nodes, or `missing` with them, or `extra` there."""
        if self.ours is None:
            return frozenset({"extra"})
        return frozenset({"missing"}) if self.theirs is None else self.ours.differs(self.theirs)

    @property
    def case(self) -> str:
        """Which of the cases side by side in one image the path belongs to."""
        return HOMES.get(self.path.partition(b"/")[0], self.image)


@dataclass(frozen=True)
class Reason:
    """Why a witness's tree differs from ours. `covers` gives the differences of a pair that it explains."""

    witnesses: tuple[str, ...]
    text: str
    covers: Callable[[Pair], frozenset[str]]


def unexplained(image: str, witness: str, ours: Tree, theirs: Tree) -> list[str]:
    """Give every difference that no reason covers, a line for each."""
    names = (witness, witness.removesuffix(IN_CONTAINERD))
    reasons = [reason for reason in REASONS if any(name in reason.witnesses for name in names)]
    lines = []
    for pair in _pairs(image, ours, theirs):
        left = pair.differs.difference(*(reason.covers(pair) for reason in reasons))
        if left:
            values = [
                (getattr(pair.ours, name, None), getattr(pair.theirs, name, None)) for name in sorted(left)
            ]
            lines.append(f"{shown(pair.path)} ({pair.case}): {', '.join(sorted(left))}: {values}"[:400])
    return lines


def _pairs(image: str, ours: Tree, theirs: Tree) -> Iterator[Pair]:
    for path in sorted(ours.keys() | theirs.keys()):
        pair = Pair(image, path, ours.get(path), theirs.get(path))
        if pair.differs:
            yield pair


# --- reasons ---

_DOCKERS_OWN = {
    b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"etc", b"etc/hostname", b"etc/hosts",
    b"etc/mtab", b"etc/resolv.conf", b"proc", b"sys",
}  # fmt: skip
_LINKED = frozenset({"mode", "owner", "mtime", "xattrs"})
_CHANGED = {
    "folder, then its whiteout",
    "hard links kept by aufs",
    "missing parents",
    "missing parents of a hard link",
}
_UMOCIS_OWN = {
    "whiteout in a new folder through a link",
    "whiteout, then the folder",
    "whiteout in a folder not there",
    "whiteout in a lower link's folder",
    "opaque by attribute",
    "device 0/0",
    "entry under a lower link",
    "opaque root",
}


def _dockers_own(pair: Pair) -> frozenset[str]:
    if pair.path not in _DOCKERS_OWN:
        return frozenset()
    folder = pair.path in (b"dev", b"etc")
    return frozenset({"extra", "mtime"}) if folder else ALL


def _unpacked_when(pair: Pair) -> frozenset[str]:
    ours, theirs = pair.ours, pair.theirs
    implied = ours and theirs and ours.kind == "folder" and ours.mtime == 0 and theirs.mtime >= STARTED
    return frozenset({"mtime"}) if implied else frozenset()


def _folder_stays(pair: Pair) -> frozenset[str]:
    implied = pair.ours is not None and pair.ours[:4] == ("folder", 0o755, "0:0", 0)
    return _LINKED if implied else frozenset()


def _time_of_change(pair: Pair) -> frozenset[str]:
    changed = pair.theirs is not None and pair.theirs.kind == "folder" and pair.theirs.mtime >= STARTED
    return frozenset({"mtime"}) if changed and pair.case in _CHANGED else frozenset()


def _exports(kept: Callable[[str], bool]) -> Callable[[Pair], frozenset[str]]:
    def covers(pair: Pair) -> frozenset[str]:
        if pair.ours is None or pair.theirs is None:
            return frozenset()
        exported = tuple(item for item in pair.ours.xattrs if kept(item[0]))
        return frozenset({"xattrs"}) if pair.theirs.xattrs == exported else frozenset()

    return covers


def _without_value(pair: Pair) -> frozenset[str]:
    if pair.ours is None or pair.theirs is None:
        return frozenset()
    valued = tuple(item for item in pair.theirs.xattrs if item[1])
    return frozenset({"xattrs"}) if valued == pair.ours.xattrs else frozenset()


def _times_that_do_not_fit(pair: Pair) -> frozenset[str]:
    zero = pair.ours is not None and pair.ours.kind != "folder" and pair.ours.mtime == 0
    return frozenset({"mtime"}) if zero else frozenset()


def _hard_links_attributes(pair: Pair) -> frozenset[str]:
    cases = (
        "hard link's own attributes",
        "hard link to a device",
        "hard link to a symlink",
        "extended attributes",
    )
    return _LINKED if pair.case in cases else frozenset()


REASONS = [
    Reason(
        ("docker export",),
        "`docker export` adds `.dockerenv`, `dev/console`, `dev/pts`, `dev/shm`, `proc`, `sys` and empty "
        "`etc/hostname`, `etc/hosts`, `etc/mtab`, `etc/resolv.conf` in place of the image's own.",
        _dockers_own,
    ),
    Reason(
        ("docker export",),
        "`docker export` leaves out every extended attribute but `security.capability`.",
        _exports(lambda name: name == "security.capability"),
    ),
    Reason(
        (f"docker export{IN_CONTAINERD}",),
        "docker with the containerd image store ignores an opaque folder in overlayfs's own form, which is "
        "an extended attribute; docker without that store, podman and bottle take it as opaque.",
        lambda pair: frozenset({"extra"}) if pair.case == "opaque by attribute" else frozenset(),
    ),
    Reason(
        ("podman export",),
        "`podman export` leaves out every extended attribute but `security.capability` and `user.*`.",
        _exports(lambda name: name == "security.capability" or name.startswith("user.")),
    ),
    Reason(
        ("podman export", "podman image mount"),
        "podman 5 keeps an extended attribute without a value; docker, podman 4 and bottle leave it out, as "
        "a pax record without a value removes its key.",
        _without_value,
    ),
    Reason(
        ("docker export", "podman export", "podman image mount", "umoci unpack"),
        "A folder that a layer implies but does not list gets the time of unpacking; in bottle it gets 1970.",
        _unpacked_when,
    ),
    Reason(
        ("umoci unpack",),
        "A folder that a layer implies but does not list keeps the owner and mode of the layers below in "
        "umoci; in docker, podman and bottle it belongs to root, with mode 0755.",
        _folder_stays,
    ),
    Reason(
        ("umoci unpack",),
        "In umoci a folder gets the time of unpacking when something in it is created or removed and the "
        "folder is not listed.",
        _time_of_change,
    ),
    Reason(
        ("umoci unpack",),
        "umoci keeps times before 1970 and after 2262; docker, podman and bottle set them to 0.",
        _times_that_do_not_fit,
    ),
    Reason(
        ("umoci unpack",),
        "umoci ignores the attributes of a hard link's entry; docker, podman and bottle set them on the "
        "file.",
        _hard_links_attributes,
    ),
    Reason(
        ("umoci unpack",),
        "umoci unpacks all layers into one folder; docker and podman unpack each layer separately and let "
        "overlayfs stack them. So they differ for a whiteout followed by its name in the same layer, an "
        "entry or whiteout whose folder is a link in a lower layer, whiteouts in overlayfs's own form, and "
        "an opaque root, which overlayfs ignores. bottle does the same as docker and podman.",
        lambda pair: ALL if pair.case in _UMOCIS_OWN else frozenset(),
    ),
]

REFUSALS = {
    ("sparse, old GNU", "docker"): "unhandled tar header type 83",
    ("sparse, old GNU", "podman"): "unhandled tar header type 83",
    ("sparse, old GNU", "umoci"): "unknown typeflag",
    ("no layers", "podman"): "layer not known",
    ("umoci removed", "docker"): "not a directory",
    ("umoci removed", "podman"): "no such file or directory",
}
