"""Layers: each applied by itself to an empty root, as engines do, then merged as overlayfs shows them.

The rules are those of docker 20.10 and podman 4.3, measured with crafted layers; where both refuse a layer
that has one sensible meaning, that meaning is used. Source: OCI image-spec v1.1, layer.md; the kernel's
Documentation/filesystems/overlayfs.rst ("whiteouts and opaque directories").
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
_LAST_SECOND = (1 << 63) // 10**9  # engines store times as 64-bit nanoseconds; others become 0
_EXTENT_COST = 128  # bytes of memory
_NO_ID = 0xFFFFFFFF  # for chown(2): do not change it

_T = TypeVar("_T")


class LayerTree:
    """The content of one layer. `below` lists its hard links to files of lower layers.

    Such a link is an inode of kind LNKTYPE until it is bound.
    """

    def __init__(self, number: int, quota: Quota) -> None:
        self.root = Folder()
        self.below: list[tuple[Folder, bytes]] = []
        self._number = number
        self._quota = quota
        # cache of the last folder, by the name that was looked up
        self._near: tuple[bytes, Folder] = (b"", self.root)
        self._same: dict[object, object] = {}

    def add(self, member: tarfile.TarInfo, extents: Extents | None = None) -> None:
        """Apply one member, a sparse one with its `extents`. Raises ImageError where no file system could."""
        path = _bytes(member.name)
        self._quota.spend(len(path))
        head, _, name = path.rpartition(b"/")
        if b".." in path or name in (b"", b"."):
            head, name = split_path(path)  # lexically: `a/../b` is `b` and does not create `a`
            if not name:
                return  # engines set their own attributes on the root
        check_name(path, name)
        if name.startswith(_WHITEOUT):
            self._hide(head, name)
        else:  # in the middle of a path, a whiteout's name is a normal name
            self._place(self._folder(head), name, member, extents)

    def _folder(self, path: bytes) -> Folder:
        """Return the folder of a member. A missing one is created as engines do: mode 0755, owner root."""
        if path != self._near[0]:
            found = find_folder(self.root, path, fill=self._quota)
            assert found is not None  # noqa: S101 - it has been filled
            self._near = (path, found)
        return self._near[1]

    def _hide(self, path: bytes, mark: bytes) -> None:
        """Mark a name, or all names, in a folder as hidden: in lower layers, never in this one.

        Engines create a device 0/0 for a whiteout at once. So a folder that comes later replaces the whiteout
        and shows what is below; earlier entries stay, and a folder among them hides what is below. Below
        something that is not a folder nothing is hidden: umoci writes such whiteouts, docker and podman
        refuse them.
        """
        folder = find_folder(self.root, path, fill=self._quota, hide=True)
        name = mark[len(_WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise ImageError("a whiteout without a name", why=shown(mark))
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
            node = old  # its children stay
        else:
            node = self._made(member, extents)
        self._set_metadata(node, member)
        if old is not None and old is not node:
            self._near = (b"", self.root)  # what was replaced may have been on this path
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
        """Set attributes. Those of a hard link are set on its file, as chown and chmod do."""
        if (uid := member.uid & _NO_ID) != _NO_ID:
            node.uid = self._shared(uid)
        if (gid := member.gid & _NO_ID) != _NO_ID:
            node.gid = self._shared(gid)
        if node.kind != tarfile.SYMTYPE:
            node.mode = self._shared(member.mode & 0o7777)
        elif member.type == tarfile.SYMTYPE:
            node.mode = 0o777  # the only mode that a symlink can have
        if node.kind != tarfile.SYMTYPE or member.type == tarfile.SYMTYPE:
            node.mtime = self._shared(_mtime(member))
        if member.pax_headers:
            self._add_xattrs(node, member.pax_headers)

    def _add_xattrs(self, node: Inode, records: Mapping[str, str]) -> None:
        xattrs = dict(node.xattrs or ())
        for key, value in records.items():
            if key.startswith(_OVERLAY):
                # overlayfs reserves these; only this one affects the result
                if key == _OVERLAY + "opaque" and value == "y" and isinstance(node, Folder):
                    node.opaque = True
            elif key.startswith(_XATTR) and value:  # engines ignore an empty one
                self._quota.spend(len(key) + len(value))
                xattrs[key] = value
        shared: Xattrs = tuple(xattrs.items())
        node.xattrs = self._shared(shared) or None

    def _shared(self, value: _T) -> _T:
        """Return one object for all equal values, of which there are many."""
        return self._same.setdefault(value, value)  # type: ignore[return-value]


def read_layer(stream: ForwardStream, number: int, what: str, quota: Quota) -> LayerTree:
    """Return the tree of a layer's tar stream, read up to its end mark.

    `what` names the layer in errors. Raises ImageError for a damaged layer, or one that no file system can
    store.
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
    """Merge a layer into those below it, as overlayfs does. Raises ImageError for a dangling hard link."""
    _link_below(base, layer)
    layer.root.opaque = False  # overlayfs ignores the mark on the root
    _merge(base, layer.root)


def _link_below(base: Folder, layer: LayerTree) -> None:
    """Bind hard links to files that only lower layers have.

    docker and podman refuse them, as they apply each layer by itself; containerd, which applies layers onto
    the lower ones, accepts them.
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
        if inode.kind != tarfile.SYMTYPE:  # symlinks have no mode of their own
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
        high.children.clear()  # so that two lists of all names never exist at once


def _merged(low: Folder, name: bytes, node: Inode) -> Folder:
    """Return the folder to merge into: `low` with the attributes of `node`, or `node` over anything else."""
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
