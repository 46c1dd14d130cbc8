"""Layers: each applied by itself in an empty root, as the engines do, then merged as overlayfs shows them.

The rules are those of docker 20.10 and podman 4.3, tried with crafted layers; where both refuse a layer that
has one sensible meaning, that meaning is taken.
Source: OCI image-spec v1.1, layer.md; the kernel's Documentation/filesystems/overlayfs.rst
("whiteouts and opaque directories").
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from typing import TypeVar

from bot_bottle.errors import ImageError
from bot_bottle.rootfs.tree import Folder, Inode, Quota, Xattrs, check_name, find_folder, shown, split_path
from bot_bottle.tar.reader import REGULAR, ForwardStream, Headers
from bot_bottle.tar.sparse import Extents

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_OVERLAY = _XATTR + "trusted.overlay."
_FRACTION = re.compile(r"\d{1,10}\.\d{1,9}")
_LAST_SECOND = (1 << 63) // 10**9  # engines set times in nanoseconds of 64 bits, and what does not fit to 0
_EXTENT_COST = 128  # bytes of memory
_NO_ID = 0xFFFFFFFF  # for chown(2): leave it as it is

_T = TypeVar("_T")


class LayerTree:
    """What one layer holds. `below` lists where it has hard links to files that it has not.

    Such a link is an inode of kind LNKTYPE until it is bound.
    """

    def __init__(self, number: int, quota: Quota) -> None:
        self.root = Folder()
        self.below: list[tuple[Folder, bytes]] = []
        self._number = number
        self._quota = quota
        self._near: tuple[bytes, Folder] = (b"", self.root)  # the last folder, by the name it was asked for
        self._same: dict[object, object] = {}

    def add(self, member: tarfile.TarInfo, extents: Extents | None = None) -> None:
        """Apply one member, a sparse one with its `extents`. Raises ImageError where no file system could."""
        path = _bytes(member.name)
        self._quota.spend(len(path))
        head, _, name = path.rpartition(b"/")
        if b".." in path or name in (b"", b"."):
            head, name = split_path(path)  # by its words: `a/../b` is `b` and makes no `a`
            if not name:
                return  # engines keep attributes of their own for the root
        check_name(path, name)
        if name.startswith(_WHITEOUT):
            self._hide(head, name)
        else:  # further up, a whiteout's name is one like any other
            self._place(self._folder(head), name, member, extents)

    def _folder(self, path: bytes) -> Folder:
        """Find the folder of a member. A missing one is made like the engines make it: 0755, root's."""
        if path != self._near[0]:
            found = find_folder(self.root, path, fill=self._quota)
            assert found is not None  # noqa: S101 - it has been filled
            self._near = (path, found)
        return self._near[1]

    def _hide(self, path: bytes, mark: bytes) -> None:
        """Mark a name, or all names, in a folder as hidden: what is below, never what is in this layer.

        Engines make a whiteout a device 0/0 then and there. So a folder that comes after replaces the
        whiteout and shows what is below; what came before stays, and a folder among it hides what is below.
        Nothing is hidden in something that is not a folder: umoci writes that, docker and podman refuse it.
        """
        folder = find_folder(self.root, path, fill=self._quota, hide=True)
        name = mark[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise ImageError("a whiteout that names nothing", why=shown(mark))
        if folder is None:
            return
        if mark == _OPAQUE:
            folder.opaque = True
            return
        old = folder.children.get(name)
        if old is None:
            whiteout = folder.children[name] = Inode(tarfile.CHRTYPE)
            whiteout.device = (0, 0)
        elif isinstance(old, Folder):
            old.opaque = True

    def _place(self, folder: Folder, name: bytes, member: tarfile.TarInfo, extents: Extents | None) -> None:
        old = folder.children.get(name)
        if member.type == tarfile.LNKTYPE:
            node = self._linked(folder, name, member)
        elif member.type == tarfile.DIRTYPE and isinstance(old, Folder):
            node = old  # keeps what is in it
        else:
            node = self._made(member, extents)
        self._set_metadata(node, member)
        if old is not None and old is not node:
            self._near = (b"", self.root)  # what was replaced may have been on the way there
        folder.children[name] = node

    def _made(self, member: tarfile.TarInfo, extents: Extents | None) -> Inode:
        if member.type == tarfile.DIRTYPE:
            return Folder()
        node = Inode(tarfile.REGTYPE if member.type in REGULAR else member.type)
        node.layer, node.offset = self._number, member.offset_data
        if node.kind == tarfile.REGTYPE:
            node.size, node.extents = member.size, extents
            if extents:
                self._quota.spend(len(extents) * _EXTENT_COST)
        elif node.kind == tarfile.SYMTYPE:
            node.link = _bytes(member.linkname)
            self._quota.spend(len(node.link))
            if not node.link:
                raise ImageError("a symlink to nothing", why=repr(member.name[:200]))
            check_name(node.link, b"")
        elif node.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            node.device = (member.devmajor, member.devminor)
        return node

    def _linked(self, folder: Folder, name: bytes, member: tarfile.TarInfo) -> Inode:
        target = _bytes(member.linkname)
        check_name(target, b"")
        head, last = split_path(target)
        place = find_folder(self.root, head)
        inode = place.children.get(last) if place is not None else None
        if isinstance(inode, Folder) or not last:
            raise ImageError("a hard link to a folder", why=shown(target))
        if inode is None:
            inode = Inode(tarfile.LNKTYPE)
            inode.link = target
            self._quota.spend(len(target))
        if inode.kind == tarfile.LNKTYPE:
            self.below.append((folder, name))
        return inode

    def _set_metadata(self, node: Inode, member: tarfile.TarInfo) -> None:
        """Set attributes. A hard link's own are set on the file it names, as chown and chmod do it."""
        if (uid := member.uid & _NO_ID) != _NO_ID:
            node.uid = self._shared(uid)
        if (gid := member.gid & _NO_ID) != _NO_ID:
            node.gid = self._shared(gid)
        if node.kind != tarfile.SYMTYPE:
            node.mode = self._shared(member.mode & 0o7777)
        elif member.type == tarfile.SYMTYPE:
            node.mode = 0o777  # the only one a symlink can have
        if node.kind != tarfile.SYMTYPE or member.type == tarfile.SYMTYPE:
            node.mtime = self._shared(_mtime(member))
        if member.pax_headers:
            self._add_xattrs(node, member.pax_headers)

    def _add_xattrs(self, node: Inode, records: Mapping[str, str]) -> None:
        xattrs = dict(node.xattrs or ())
        for key, value in records.items():
            if key.startswith(_OVERLAY):
                # overlayfs keeps these for itself; only this one has a meaning for what shows
                if key == _OVERLAY + "opaque" and value == "y" and isinstance(node, Folder):
                    node.opaque = True
            elif key.startswith(_XATTR) and value:  # an empty one, the engines take for none
                self._quota.spend(len(key) + len(value))
                xattrs[key] = value
        shared: Xattrs = tuple(xattrs.items())
        node.xattrs = self._shared(shared) or None

    def _shared(self, value: _T) -> _T:
        """Return one object for all equal values, of which there are many."""
        return self._same.setdefault(value, value)  # type: ignore[return-value]


def read_layer(stream: ForwardStream, number: int, what: str, quota: Quota) -> LayerTree:
    """Read a layer's tar stream up to its end mark into a tree.

    `what` names the layer in errors. Raises ImageError for what is damaged, or what no file system can hold.
    """
    tree = LayerTree(number, quota)
    headers = Headers(stream, what)
    for member in headers:
        try:
            tree.add(member, headers.extents)
        except ImageError as error:
            raise ImageError(
                f"{what} has {error.message}", why=error.why, next_step=error.next_step
            ) from error
    return tree


def merge_layer(base: Folder, layer: LayerTree) -> None:
    """Merge a layer into those below it, as overlayfs does. Raises ImageError for a hard link to nothing."""
    _link_below(base, layer)
    layer.root.opaque = False  # overlayfs heeds the mark on every folder but the root
    _merge(base, layer.root)


def _link_below(base: Folder, layer: LayerTree) -> None:
    """Bind hard links to files that only the layers below have.

    docker and podman refuse them, as they apply each layer by itself; containerd, which applies onto the
    layers below, takes them.
    """
    for folder, name in layer.below:
        mine = folder.children.get(name)
        if mine is None or mine.kind != tarfile.LNKTYPE:
            continue  # a later member of the layer has replaced it
        head, last = split_path(mine.link)
        place = find_folder(base, head)
        inode = place.children.get(last) if place is not None else None
        if inode is None or isinstance(inode, Folder):
            raise ImageError("the image has a hard link to nothing", why=shown(mine.link))
        if inode.kind != tarfile.SYMTYPE:  # those have no mode of their own
            mine.xattrs = mine.xattrs or inode.xattrs
            inode.copy_metadata(mine)
        folder.children[name] = inode


def _merge(base: Folder, upper: Folder) -> None:
    todo = [(base, upper)]
    while todo:
        low, high = todo.pop()
        if high.opaque:
            low.children.clear()
        for name, node in high.children.items():
            if node.is_whiteout:
                low.children.pop(name, None)
            elif isinstance(node, Folder):
                todo.append((_merged(low, name, node), node))
            else:
                low.children[name] = node
        high.children.clear()  # so that there are never two lists of all names


def _merged(low: Folder, name: bytes, node: Inode) -> Folder:
    """A folder over a folder keeps what is in that and has its own attributes; over all else it is alone."""
    below = low.children.get(name)
    if not isinstance(below, Folder):
        below = low.children[name] = Folder()
    below.copy_metadata(node)
    return below


def _mtime(member: tarfile.TarInfo) -> int | str:
    seconds = int(member.mtime)
    if not 0 <= seconds <= _LAST_SECOND:
        return 0
    exact = member.pax_headers.get("mtime", "")
    return exact if _FRACTION.fullmatch(exact) and exact.partition(".")[2].strip("0") else seconds


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
