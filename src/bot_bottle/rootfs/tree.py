"""A file tree in memory, made of inodes as in a file system.

Two names of one file are two entries with the same Inode, so hard links need no special rules. Inodes have
the position of their data in a layer, never the data.
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
    sparse file are placed by `extents`. For other kinds, `offset` is only their order. `mtime` is in seconds,
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
        self.parent: Folder | None = None  # set when the tree is listed
        self.name = b""
        self.names: list[tuple[Folder, bytes]] | None = None  # its further names

    def copy_metadata(self, other: Inode) -> None:
        """Copy the attributes of another inode."""
        self.mode, self.uid, self.gid = other.mode, other.uid, other.gid
        self.mtime, self.xattrs = other.mtime, other.xattrs

    @property
    def is_whiteout(self) -> bool:
        """Whether it is overlayfs's whiteout: a character device 0/0."""
        return self.kind == tarfile.CHRTYPE and self.device == (0, 0)


class Folder(Inode):
    """A folder. An `opaque` one hides the layers below it. `path` is set when it is listed."""

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
    """Return the path of a listed inode, by its first name."""
    if isinstance(node, Folder):
        return node.path
    assert node.parent is not None  # noqa: S101 - set when it was listed
    return join_path(node.parent, node.name)


class Quota:
    """The memory that an image's list of files may use, so that a hostile image cannot exhaust it.

    Several threads may count at once: the few counts that get lost do not matter for the limit.
    """

    def __init__(self, limit: int = _QUOTA) -> None:
        self._left = limit

    def spend(self, size: int = 0) -> None:
        """Count one entry with `size` bytes of names and attributes. Raises ImageError at the limit."""
        self._left -= _NODE_COST + size
        if self._left < 0:
            raise ImageError("the image has too many files")


def find_folder(root: Folder, path: bytes, fill: Quota | None = None, *, hide: bool = False) -> Folder | None:
    """Follow a path as the kernel would, with `root` as the root; links cannot leave it.

    With `fill`, missing folders are created, and counted there; without, the result is None for anything but
    a folder. Raises ImageError when `fill` meets something that is not a folder. With `hide`, for whiteouts,
    the result is None for that too, and for a dangling link.
    """
    trail = [root]
    todo = path.split(b"/")
    todo.reverse()
    own = len(todo)  # while at least as many components are left, those of a link are being followed
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
    """Normalize a path lexically, the root being its own parent; return its folder and its name.

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
    """Raise ImageError for a name or path that no file system can store."""
    if len(name) > _NAME_MAX or len(path) > PATH_MAX or b"\0" in path:
        raise ImageError("a name that no file system can store", why=shown(path))


def shown(path: bytes) -> str:
    """Return a path for an error message, on one line and shortened."""
    return repr(path[:200].decode("utf-8", "backslashreplace"))
