"""The files that the guest's kernel holds, by the numbers that it knows them by.

A node is a file itself, held open (O_PATH), and not a path: whatever is renamed in the meantime, it is that
file. Of names only single ones are looked up, in a folder that is held open, and never followed. So nothing
leads out of the folder that is shared.

There are limits for open files. When many are held, those that are neither folders nor in use are closed, and
opened by name in their folder when they are needed; they have to be the same file then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict

from bot_bottle.vm.direct.virtiofs.protocol import ROOT

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255


class Node:
    """A file that the guest's kernel holds. Its `place` is a folder and a name, where it was last seen."""

    __slots__ = ("count", "descriptor", "key", "kind", "number", "opened", "place")

    def __init__(self, number: int, descriptor: int, found: os.stat_result, place: tuple[Node, bytes] | None):
        """Take a file that is open."""
        self.number = number
        self.descriptor: int | None = descriptor
        self.key = (found.st_dev, found.st_ino)
        self.kind = stat.S_IFMT(found.st_mode)
        self.place = place
        self.count = 0  # of the references that the guest's kernel has
        self.opened = 0  # handles

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.kind == stat.S_IFDIR


class Nodes:
    """All that the guest's kernel holds. `most` is the number of files that may be held open."""

    def __init__(self, top: int, most: int) -> None:
        """Begin with the top folder, which is open (O_PATH)."""
        self._most = most
        self.top = Node(ROOT, top, os.fstat(top), None)
        self.top.count = 1  # for good
        self._by_number = {ROOT: self.top}
        self._by_key = {self.top.key: self.top}
        self._closable: OrderedDict[int, Node] = OrderedDict()  # the one not used for longest is first
        self._next = ROOT + 1
        self._held = 1  # descriptors

    def get(self, number: int) -> Node:
        """Return a node. Raises OSError."""
        node = self._by_number.get(number)
        if node is None:
            raise OSError(errno.ESTALE, "no such node")
        return node

    def descriptor(self, node: Node) -> int:
        """Return the node's descriptor (O_PATH). Raises OSError when the file is gone."""
        if node.number in self._closable:
            self._closable.move_to_end(node.number)
        if node.descriptor is None:
            self._reopen(node)
        assert node.descriptor is not None  # noqa: S101 - opened above
        return node.descriptor

    def folder(self, number: int) -> int:
        """Return the descriptor of a folder. Raises OSError."""
        node = self.get(number)
        if not node.is_folder:
            raise OSError(errno.ENOTDIR, "not a folder")
        return self.descriptor(node)

    def look_up(self, number: int, name: bytes) -> tuple[Node, os.stat_result]:
        """Open a file of a folder, and count one more reference to it. Raises OSError."""
        folder = self.get(number)
        descriptor = os.open(checked(name), _HOLD, dir_fd=self.folder(number))
        return self.hold(descriptor, (folder, name))

    def hold(self, descriptor: int, place: tuple[Node, bytes]) -> tuple[Node, os.stat_result]:
        """Take a file that is open (O_PATH), and count one more reference to it."""
        found = os.fstat(descriptor)
        node = self._by_key.get((found.st_dev, found.st_ino))
        if node is not None:
            os.close(descriptor)
            node.place = place if node is not self.top else None
        else:
            node = Node(self._next, descriptor, found, place)
            self._next += 1
            self._held += 1
            self._by_number[node.number] = self._by_key[node.key] = node
            if not node.is_folder:
                self._closable[node.number] = node
            self._close_some()
        node.count += 1
        return node, found

    def moved(self, number: int, name: bytes, target: int, new_name: bytes) -> None:
        """Note that a file has another name."""
        folder, new_folder = self.get(number), self.get(target)
        try:
            found = os.stat(new_name, dir_fd=self.folder(target), follow_symlinks=False)
        except OSError:
            return
        node = self._by_key.get((found.st_dev, found.st_ino))
        if node is not None and node.place == (folder, name):
            node.place = (new_folder, new_name)

    def forget(self, number: int, count: int) -> None:
        """Take back references; a file without any is closed."""
        node = self._by_number.get(number)
        if node is None or node is self.top:
            return
        node.count -= count
        if node.count <= 0 and not node.opened:
            self._drop(node)

    def release(self, node: Node) -> None:
        """Take back one handle."""
        node.opened -= 1
        if node.count <= 0 and not node.opened:
            self._drop(node)

    def forget_all(self) -> None:
        """Close all but the top folder."""
        for node in list(self._by_number.values()):
            if node is not self.top:
                self._drop(node)

    def _drop(self, node: Node) -> None:
        self._by_number.pop(node.number, None)
        self._closable.pop(node.number, None)
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        self._close(node)

    def _close(self, node: Node) -> None:
        if node.descriptor is not None:
            os.close(node.descriptor)
            node.descriptor = None
            self._held -= 1

    def _close_some(self) -> None:
        """Close files that are not in use. Their inodes may become other files then, so their keys go."""
        for number, node in list(self._closable.items()) if self._held > self._most else ():
            if self._held <= self._most - self._most // 8:
                return
            if not node.opened:
                self._close(node)
                del self._closable[number]
                if self._by_key.get(node.key) is node:
                    del self._by_key[node.key]

    def _reopen(self, node: Node) -> None:
        if node.place is None or self._by_number.get(node.number) is not node:
            raise OSError(errno.ESTALE, "not held any more")
        folder, name = node.place
        descriptor = os.open(name, _HOLD, dir_fd=self.descriptor(folder))
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != node.key or stat.S_IFMT(found.st_mode) != node.kind:
            os.close(descriptor)
            raise OSError(errno.ESTALE, "another file has its name")
        node.descriptor = descriptor
        self._held += 1
        self._by_key.setdefault(node.key, node)
        self._close_some()
        self._closable[node.number] = node


def checked(name: bytes) -> bytes:
    """Return a single name. Raises OSError for one that leads elsewhere."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not a name")
    if len(name) > _LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, "too long")
    return name


def name_in(body: bytes, start: int) -> bytes:
    """Return the name that begins there in a request, and ends with a zero."""
    return body[start:].partition(b"\0")[0]
