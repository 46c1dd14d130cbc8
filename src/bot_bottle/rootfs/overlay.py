"""Layers merged into one tree, as overlayfs shows them.

Source: the kernel's Documentation/filesystems/overlayfs.rst ("whiteouts and opaque directories").
"""

from __future__ import annotations

import tarfile

from bot_bottle.errors import ImageError
from bot_bottle.rootfs.layer import LayerTree
from bot_bottle.rootfs.tree import Folder, Inode, find_folder, shown, split_path


def stack(base: Folder, layer: LayerTree) -> None:
    """Put a layer on what is below it. Raises ImageError for a hard link to nothing."""
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
            inode.dress(mine)
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
    below.dress(node)
    return below
