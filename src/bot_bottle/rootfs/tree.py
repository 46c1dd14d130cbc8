"""A file tree in memory, made of inodes as in a file system.

Two names of one file are two entries with the same Inode, so hard links need no rules of their own. Inodes
hold where their data lies in a layer, never the data.
"""

from __future__ import annotations

import tarfile
from typing import Final

from bot_bottle.errors import ImageError
from bot_bottle.tar.sparse import Extents

SYMLINKS: Final = 40  # followed in one path before the kernel gives up: path_resolution(7)
_NAME_MAX = 255  # bytes of a name, and
PATH_MAX: Final = 4095  # of a path: limits.h; no engine could have made longer ones
_NODE_COST = 400  # bytes of memory for one entry, measured
_QUOTA = 1 << 30  # bytes; two million entries, the most that smolvm takes, need less

Xattrs = tuple[tuple[str, str], ...]


class Inode:
    """A file of any kind. `kind` is a tar type; a symlink's target is `link`.

    A regular file's `size` bytes begin at `offset` in the tar stream of layer number `layer`; those of a
    sparse file are placed by `extents`. Of the other kinds, `offset` gives the order. `mtime` is in seconds,
    as text where it has a fraction. `xattrs` are PAX records.
    """

    __slots__ = (
        "device",
        "extents",
        "gid",
        "kind",
        "layer",
        "link",
        "mode",
        "mtime",
        "name",
        "names",
        "offset",
        "parent",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(self, kind: bytes = tarfile.REGTYPE) -> None:
        self.kind = kind
        self.mode = 0o755
        self.uid = self.gid = 0
        self.mtime: int | str = 0
        self.xattrs: Xattrs | None = None
        self.layer = self.offset = self.size = 0
        self.link = b""
        self.device: tuple[int, int] | None = None
        self.extents: Extents | None = None
        self.parent: Folder | None = None  # where it is and how it is named, once the tree is listed
        self.name = b""
        self.names: list[tuple[Folder, bytes]] | None = None  # its further names

    def copy_metadata(self, other: Inode) -> None:
        """Copy the attributes of another inode."""
        self.mode, self.uid, self.gid = other.mode, other.uid, other.gid
        self.mtime, self.xattrs = other.mtime, other.xattrs

    @property
    def is_whiteout(self) -> bool:
        """Whether it is what overlayfs has for "nothing here": a character device 0/0."""
        return self.kind == tarfile.CHRTYPE and self.device == (0, 0)


class Folder(Inode):
    """A folder. An `opaque` one shows nothing of the layers below it. `path` is known once it is listed."""

    __slots__ = ("children", "opaque", "path")

    def __init__(self, *, opaque: bool = False) -> None:
        super().__init__(tarfile.DIRTYPE)
        self.children: dict[bytes, Inode] = {}
        self.opaque = opaque
        self.path = b""


def join_path(folder: Folder, name: bytes) -> bytes:
    """Return the path of a name in a listed folder."""
    return folder.path + b"/" + name if folder.path else name


def path_of(node: Inode) -> bytes:
    """Return the path of an inode that has been listed: of its first name."""
    if isinstance(node, Folder):
        return node.path
    assert node.parent is not None  # noqa: S101 - set when it was listed
    return join_path(node.parent, node.name)


class Quota:
    """The memory that an image's list of files may take, so that a hostile one cannot take it all.

    Several threads may spend of it: the counts that they may lose are few beside the limit.
    """

    def __init__(self, limit: int = _QUOTA) -> None:
        self._left = limit

    def spend(self, size: int = 0) -> None:
        """Count one entry with `size` bytes of names and attributes. Raises ImageError at the limit."""
        self._left -= _NODE_COST + size
        if self._left < 0:
            raise ImageError("the image has more files than can be handled")


def find_folder(root: Folder, path: bytes, fill: Quota | None = None, *, hide: bool = False) -> Folder | None:
    """Go along a path as the kernel would, with `root` as the root; links lead nowhere else.

    With `fill`, missing folders are made, and counted there; without, None stands for what is not a folder.
    Raises ImageError when something that is not a folder stands in the way of filling. With `hide`, where
    only something is to be hidden, None stands for that too, and for a link to nothing.
    """
    trail = [root]
    todo = path.split(b"/")
    todo.reverse()
    own = len(todo)  # with as many words left, or more, a link's words are being gone along
    links = 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del trail[max(1, len(trail) - 1) :]
            continue
        node = trail[-1].children.get(part)
        if fill is not None and (node is None or node.is_whiteout) and not (hide and len(todo) >= own):
            node = _made(trail[-1], part, fill, hiding=node is not None)
        if isinstance(node, Folder):
            trail.append(node)
        elif node is not None and node.kind == tarfile.SYMTYPE and links < SYMLINKS:
            own = min(own, len(todo))
            links += 1
            if node.link.startswith(b"/"):
                del trail[1:]
            todo.extend(reversed(node.link.split(b"/")))
        elif fill is None or hide:
            return None
        else:
            raise ImageError("an entry in something that is not a folder", why=shown(path))
    return trail[-1]


def _made(folder: Folder, name: bytes, fill: Quota, *, hiding: bool) -> Folder:
    check_name(name, name)
    fill.spend(len(name))
    made = folder.children[name] = Folder(opaque=hiding)
    return made


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Clean a path by its words alone, the root being its own parent; return its folder and its name.

    The name is empty for the root itself.
    """
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts[:-1]), b"".join(parts[-1:])


def check_name(path: bytes, name: bytes) -> None:
    """Refuse what no file system holds, with an ImageError."""
    if len(name) > _NAME_MAX or len(path) > PATH_MAX or b"\0" in path:
        raise ImageError("a name that no file system holds", why=shown(path))


def shown(path: bytes) -> str:
    """Return a path for an error message, on one line and not too long."""
    return repr(path[:200].decode("utf-8", "backslashreplace"))
