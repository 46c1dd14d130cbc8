"""Root filesystems as trees that can be compared: out of a tar, or from where it was unpacked.

Nothing of the product reads here: tars are read by Python's own tarfile, folders by the kernel.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

_XATTR = "SCHILY.xattr."
_TAR_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "folder",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "FIFO",
}
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFDIR: "folder",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
}


class Node(NamedTuple):
    """A file of any kind. `content` is a file's hash, a link's target or a device's numbers."""

    kind: str
    mode: int
    owner: str
    mtime: int  # whole seconds
    size: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    first: bytes  # of all names that the file has, the first

    def differs(self, other: Node) -> frozenset[str]:
        """The names of what is not the same."""
        return frozenset(name for name in self._fields if getattr(self, name) != getattr(other, name))


Tree = dict[bytes, Node]


def of_tar(file: IO[bytes]) -> Tree:
    """Read a tar, which may be a pipe, as the tree that it is when it is unpacked in order."""
    tree: Tree = {}
    with tarfile.open(fileobj=file, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            path = _path(member.name)
            if member.islnk():
                tree[path] = tree[_path(member.linkname)]
            elif path:
                tree[path] = _of_member(tar, member)._replace(first=path)
    return _grouped(tree)


def _of_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Node:
    kind = _TAR_KINDS[member.type]
    content = ""
    if kind == "file":
        opened = tar.extractfile(member)
        assert opened is not None
        content = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
    elif kind == "symlink":
        content = repr(os.fsencode(member.linkname))
    elif kind.endswith("device"):
        content = f"{member.devmajor}:{member.devminor}"
    return Node(
        kind,
        0o777 if kind == "symlink" else member.mode & 0o7777,
        f"{member.uid}:{member.gid}",
        int(member.mtime // 1),
        member.size if kind == "file" else 0,
        content,
        tuple(
            sorted(
                (key.removeprefix(_XATTR), os.fsencode(value))
                for key, value in member.pax_headers.items()
                if key.startswith(_XATTR)
            )
        ),
        b"",
    )


def of_folder(root: Path) -> Tree:
    """Read a folder where a root filesystem was unpacked."""
    tree: Tree = {}
    firsts: dict[tuple[int, int], bytes] = {}
    todo = [(os.open(root, os.O_RDONLY | os.O_DIRECTORY), b"")]
    while todo:  # by descriptors: paths may be longer than the kernel takes at once
        descriptor, prefix = todo.pop()
        try:
            for name in sorted(map(os.fsencode, os.listdir(descriptor))):  # noqa: PTH208 - of a descriptor
                try:
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # overlayfs lists a whiteout that has nothing to hide, and shows nothing there
                path = prefix + name
                first = (
                    path
                    if stat.S_ISDIR(status.st_mode)
                    else firsts.setdefault((status.st_dev, status.st_ino), path)
                )
                tree[path] = _of_file(descriptor, name, status)._replace(first=first)
                if stat.S_ISDIR(status.st_mode):
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                    todo.append((inner, path + b"/"))
        finally:
            os.close(descriptor)
    return _grouped(tree)


def _of_file(folder: int, name: bytes, status: os.stat_result) -> Node:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content = ""
    if kind == "file":
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "symlink":
        content = repr(os.readlink(name, dir_fd=folder))
    elif kind.endswith("device"):
        content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return Node(
        kind,
        stat.S_IMODE(status.st_mode),
        f"{status.st_uid}:{status.st_gid}",
        status.st_mtime_ns // 10**9,
        status.st_size if kind == "file" else 0,
        content,
        _xattrs(folder, name),
        b"",
    )


def _xattrs(folder: int, name: bytes) -> tuple[tuple[str, bytes], ...]:
    path = b"/proc/self/fd/%d/%s" % (folder, name)
    names = os.listxattr(path, follow_symlinks=False)
    return tuple(sorted((key, os.getxattr(path, key, follow_symlinks=False)) for key in names))


def _grouped(tree: Tree) -> Tree:
    """Name each file by the first of the names that are left of it."""
    firsts: dict[bytes, bytes] = {}
    for path in sorted(tree):
        firsts.setdefault(tree[path].first, path)
    return {path: node._replace(first=firsts[node.first]) for path, node in tree.items()}


def _path(name: str) -> bytes:
    return b"/".join(part for part in os.fsencode(name).split(b"/") if part not in (b"", b"."))


def shown(path: bytes) -> str:
    """A path for a message."""
    return os.fsdecode(path).encode("unicode_escape", "backslashreplace").decode()
