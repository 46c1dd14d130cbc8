"""What smolvm's unpacker cannot represent: rewritten with the same meaning, or reported as unsupported.

smolvm unpacks a layer on the host, where it must not write through a link that leads out of the folder. It
ends the whole extraction at a link to `/` and at one that leads above the root, though inside the guest both
are plain links. It skips devices, FIFOs and extended attributes, and reads whole seconds only.
"""

from __future__ import annotations

import tarfile

from msgspec import Struct

from bot_bottle.host.text import printable
from bot_bottle.rootfs.tree import PATH_MAX, SYMLINKS, Folder, Inode

LONGEST_PATH = 3500  # bytes; smolvm adds its own folder before a path, and the host's limit is 4095
_EXAMPLES = 20
_CAPABILITY = "SCHILY.xattr.security.capability"


class Unsupported(Struct, frozen=True):
    """Entries that a microVM cannot represent: of which kind, how many, and a few of the paths."""

    kind: str
    count: int
    examples: tuple[str, ...]


class UnsupportedEntries:
    """Counts unsupported entries by kind, in bounded space."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, path: bytes) -> None:
        """Count one entry."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append("/" + printable(path))

    def all(self) -> tuple[Unsupported, ...]:
        """Return the counts, sorted by kind."""
        return tuple(
            Unsupported(kind, self._counts[kind], tuple(self._examples[kind]))
            for kind in sorted(self._counts)
        )


def make_portable(root: Folder, path: bytes, node: Inode, losses: UnsupportedEntries) -> bool:
    """Change an entry so that smolvm extracts it with the same meaning; return False to leave it out."""
    kind = node.kind
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        if not path.startswith(b"dev/"):  # the guest fills /dev itself
            losses.add("FIFO" if kind == tarfile.FIFOTYPE else "device", path)
        return False
    if kind == tarfile.SYMTYPE:
        if _is_refused(path, node.link):
            node.link = _resolved(root, path, node.link)
            if len(node.link) > PATH_MAX:
                losses.add("symlink too long", path)
                return False
        if node.uid or node.gid:
            losses.add("owner of a symlink", path)
    for key, _ in node.xattrs or ():
        losses.add("file capability" if key == _CAPABILITY else "extended attribute", path)
    node.xattrs = None
    if isinstance(node.mtime, str):
        node.mtime = int(node.mtime.partition(".")[0])
    return True


def _is_refused(path: bytes, link: bytes) -> bool:
    """Return whether smolvm refuses a link: it looks at the words alone, not at what they lead to.

    An absolute target may not be the root; no target may climb over it, even where it comes back.
    """
    absolute = link.startswith(b"/")
    depth = 0 if absolute else path.count(b"/")
    for part in link.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return absolute and depth == 0


def _resolved(root: Folder, path: bytes, link: bytes) -> bytes:
    """Write a link without `..`, as the kernel would go: the root is its own parent, links are followed.

    The link's own folder is a real one, so a climb of its whole depth is exactly the root.
    """
    parts: list[bytes] = []
    trail: list[Inode | None] = [root]
    todo = (link if link.startswith(b"/") else path.rpartition(b"/")[0] + b"/" + link).split(b"/")
    todo.reverse()
    follows = 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del parts[-1:]
            if len(trail) > 1:
                trail.pop()
            continue
        here = trail[-1]
        node = here.children.get(part) if isinstance(here, Folder) else None
        if node is not None and node.kind == tarfile.SYMTYPE and any(todo) and follows < SYMLINKS:
            follows += 1
            if node.link.startswith(b"/"):
                parts, trail = [], [root]
            todo.extend(reversed(node.link.split(b"/")))
            continue
        parts.append(part)
        trail.append(node)
    if parts:
        return b"/" + b"/".join(parts)
    return b"/".join([b".."] * path.count(b"/")) or b"."
