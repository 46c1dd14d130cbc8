"""One layer's files as a tree, and layers merged into one, as the engine's overlay file system shows them.

A tree is made of inodes, as in a file system: two names of one file are two entries with the same Inode, so
hard links need no rules of their own. Inodes hold where their data lies in the layer, never the data.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Any

from bot_bottle.errors import ImageError
from bot_bottle.image.tarread import Headers, extents, is_regular

WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_METADATA = b".wh..wh."
SYMLINKS = 40  # followed in one path before the kernel gives up: path_resolution(7)
_NAME_MAX = 255  # bytes of a name, and
_PATH_MAX = 4095  # of a path: limits.h; the engine could not have made longer ones
_ENTRY_LIMIT = 2_000_000
_XATTR = "SCHILY.xattr."


class Inode:
    """A file of any kind but a folder. `kind` is a tar type; `order` its place among its layer's members.

    A regular file's `size` bytes begin at `offset` in the layer's tar stream; those of a sparse file are
    described by `extents`.
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

    def __init__(self) -> None:
        self.kind = tarfile.REGTYPE
        self.layer = 0
        self.offset = 0
        self.size = 0
        self.link = b""
        self.device: tuple[int, int] | None = None
        self.extents: tuple[tuple[int, int], ...] | None = None
        self.parent: Folder | None = None
        self.name = b""
        self.names: list[tuple[Folder, bytes]] | None = None  # further names
        self.set(0o755, 0, 0, 0, None)

    def set(
        self, mode: int, uid: int, gid: int, mtime: int | str, xattrs: tuple[tuple[str, str], ...] | None
    ) -> None:
        """Set the attributes. `mtime` is in seconds; text where it has a fraction."""
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.xattrs = xattrs


class Folder(Inode):
    """A folder. `hidden` and `opaque` say what of the layers below it does not show."""

    __slots__ = ("children", "hidden", "opaque", "path")

    def __init__(self) -> None:
        super().__init__()
        self.kind = tarfile.DIRTYPE
        self.children: dict[bytes, Inode] = {}
        self.hidden: set[bytes] | None = None
        self.opaque = False
        self.path = b""


class LayerTree:
    """What one layer holds, applied by itself in an empty root."""

    def __init__(self, number: int, what: str) -> None:
        self.root = Folder()
        self._number = number
        self._what = what
        self._near: tuple[bytes, Folder] = (b"", self.root)
        self._below: list[tuple[Folder, bytes, bytes]] = []  # hard links to what is not in this layer
        self._same: dict[Any, Any] = {}  # one object for equal values, of which there are many

    def add(self, member: tarfile.TarInfo) -> None:
        """Apply one member. Raises ImageError where no file system could hold it."""
        path = member.name.encode("utf-8", "surrogateescape")
        head, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            head, name = _split(path)
            if not name:
                return  # the root itself: the engine keeps its own attributes for it
        folder = self._folder(head)
        _check(path, name)
        if name.startswith(WHITEOUT) and not name.startswith(_METADATA):
            self._hide(folder, name[len(WHITEOUT) :])
        elif name == _OPAQUE:
            folder.opaque = True
        elif member.type == tarfile.LNKTYPE:
            self._link(folder, name, member)
        else:
            self._put(folder, name, member)

    def _put(self, folder: Folder, name: bytes, member: tarfile.TarInfo) -> None:
        old = folder.children.get(name)
        node: Inode
        if member.type == tarfile.DIRTYPE:
            # a folder over a folder of the same layer keeps what is in it
            node = old if isinstance(old, Folder) else Folder()
        else:
            node = Inode()
            if is_regular(member):
                node.size = member.size
                node.extents = extents(member)
            else:
                node.kind = member.type
                node.link = member.linkname.encode("utf-8", "surrogateescape")
                if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                    node.device = (member.devmajor, member.devminor)
        node.layer = self._number
        node.offset = member.offset_data
        self._dress(node, member)
        if old is not None and old is not node:
            self._near = (b"", self.root)
        folder.children[name] = node

    def _link(self, folder: Folder, name: bytes, member: tarfile.TarInfo) -> None:
        target = member.linkname.encode("utf-8", "surrogateescape")
        head, last = _split(target)
        inode = self._peek(self.root, head, last)
        if isinstance(inode, Folder):
            raise ImageError(f"{self._what} has a hard link to a folder", why=repr(target[:200]))
        if inode is None:
            self._below.append((folder, name, target))
            inode = Inode()
        self._dress(inode, member)
        self._near = (b"", self.root)
        folder.children[name] = inode

    def _dress(self, node: Inode, member: tarfile.TarInfo) -> None:
        same = self._same.setdefault
        records = member.pax_headers
        mtime: int | str = int(member.mtime)
        xattrs = None
        if records:
            if "." in (exact := records.get("mtime", "")):
                mtime = exact
            xattrs = tuple((key, value) for key, value in records.items() if key.startswith(_XATTR)) or None
        node.set(
            same(member.mode & 0o7777, member.mode & 0o7777),
            same(member.uid, member.uid),
            same(member.gid, member.gid),
            same(mtime, mtime),
            same(xattrs, xattrs),
        )

    def _hide(self, folder: Folder, name: bytes) -> None:
        if name in (b"", b".", b".."):
            raise ImageError(f"{self._what} has a whiteout of nothing", why=repr(WHITEOUT + name))
        if folder.hidden is None:
            folder.hidden = set()
        folder.hidden.add(name)

    def _folder(self, path: bytes) -> Folder:
        """Find the folder a member belongs in: links are followed within the root, gaps are filled."""
        if path == self._near[0]:
            return self._near[1]
        found = _walk(self.root, path, self._what, fill=True)
        assert found is not None  # noqa: S101 - it is made if it is not there
        self._near = (path, found)
        return found

    def _peek(self, root: Folder, head: bytes, name: bytes) -> Inode | None:
        folder = _walk(root, head, self._what, fill=False)
        return None if folder is None else folder.children.get(name)

    def link_below(self, base: Folder) -> None:
        """Bind hard links to files of the layers below, once they are merged in `base`."""
        for folder, name, target in self._below:
            mine = folder.children.get(name)
            inode = self._peek(base, *_split(target))
            if mine is None or isinstance(mine, Folder):
                continue
            if inode is None or isinstance(inode, Folder):
                raise ImageError(f"{self._what} has a hard link to nothing", why=repr(target[:200]))
            inode.set(mine.mode, mine.uid, mine.gid, mine.mtime, mine.xattrs)
            folder.children[name] = inode


def read_tree(stream: Any, number: int, what: str, on_entry: Callable[[], None]) -> LayerTree:
    """Read a layer's tar stream up to its end mark into a tree."""
    tree = LayerTree(number, what)
    for count, member in enumerate(Headers(stream, what)):
        if count >= _ENTRY_LIMIT:
            raise ImageError(f"{what} has more than {_ENTRY_LIMIT} entries")
        tree.add(member)
        on_entry()
    return tree


def merge(base: Folder, upper: Folder) -> None:
    """Put a layer over what is below it; the layer's tree is used up."""
    todo = [(base, upper)]
    while todo:
        low, high = todo.pop()
        if high.opaque:
            low.children.clear()
        for name in high.hidden or ():
            low.children.pop(name, None)
        for name, node in high.children.items():
            if name.startswith(WHITEOUT):
                continue  # metadata of aufs, kept so far for the hard links into it
            if not isinstance(node, Folder):
                low.children[name] = node
                continue
            below = low.children.get(name)
            if not isinstance(below, Folder):
                low.children[name] = below = Folder()
            below.set(node.mode, node.uid, node.gid, node.mtime, node.xattrs)
            todo.append((below, node))


def _walk(root: Folder, path: bytes, what: str, *, fill: bool) -> Folder | None:
    """Follow a path of folders and links that never leaves `root`; with `fill`, make what is missing."""
    trail = [root]
    todo = path.split(b"/")
    todo.reverse()
    links = 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        node = trail[-1].children.get(part)
        if node is None and fill:
            _check(path, part)
            node = trail[-1].children[part] = Folder()
        if isinstance(node, Folder):
            trail.append(node)
        elif node is not None and node.kind == tarfile.SYMTYPE and links < SYMLINKS:
            links += 1
            if node.link.startswith(b"/"):
                del trail[1:]
            todo.extend(reversed(node.link.split(b"/")))
        elif fill:
            raise ImageError(f"{what} has an entry in something that is not a folder", why=repr(path[:200]))
        else:
            return None
    return trail[-1]


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Clean a path as a root would show it, and give its folder and its name (empty for the root)."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts[:-1]), b"".join(parts[-1:])


def _check(path: bytes, name: bytes) -> None:
    if len(name) > _NAME_MAX or len(path) > _PATH_MAX or b"\0" in path:
        raise ImageError("the image has a name that no file system holds", why=repr(path[:200]))
