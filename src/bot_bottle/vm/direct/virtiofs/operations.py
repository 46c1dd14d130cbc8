"""What the guest's kernel asks for, done to the files of the shared folder (linux/fuse.h).

The guest sees the caller's files as the bottle's user's, and all others as nobody's. What it makes is the
caller's, whatever user makes it there. It cannot make devices, nor programs that run as their owner
(set-user-ID and set-group-ID), because these would work outside of the guest too.

The process has to be in /proc/self/fd, so that a descriptor's number is a path of its file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from bot_bottle.vm.direct.virtiofs import calls, protocol, xattrs
from bot_bottle.vm.direct.virtiofs.listing import Entry, entries_of
from bot_bottle.vm.direct.virtiofs.nodes import Node, Nodes, checked, name_in
from bot_bottle.vm.direct.virtiofs.owners import Owners

LARGEST = 1 << 20  # bytes of a read or a write
_VALID = 1  # seconds for which the guest's kernel takes names and attributes for unchanged
_SET_ID = stat.S_ISUID | stat.S_ISGID
_CREATED = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENABLE = (stat.S_IFREG,)


@dataclass(slots=True)
class Handle:
    """An open file or folder. `entries` is a folder's listing, read when its reading begins."""

    node: Node
    descriptor: int
    appends: bool = False
    at_offset: int | None = None  # another descriptor of a file that appends, which does not
    entries: list[Entry] = field(default_factory=list)


class Files:
    """The files of a folder, as the guest's kernel works with them. All may raise OSError."""

    def __init__(self, nodes: Nodes, owners: Owners) -> None:
        self.nodes = nodes
        self._owners = owners
        self._handles: dict[int, Handle] = {}
        self._next = 1

    def handle(self, number: int) -> Handle:
        """Return an open file."""
        found = self._handles.get(number)
        if found is None:
            raise OSError(errno.EBADF, "no such handle")
        return found

    def initialize(self, _: int, body: bytes) -> bytes:
        """Begin: what the kernel held before is forgotten."""
        self.destroy(0, b"")
        _, minor, read_ahead, flags = protocol.INIT.unpack_from(body)
        return protocol.initialized(minor, flags, read_ahead, LARGEST)

    def destroy(self, _: int, body: bytes) -> bytes:  # noqa: ARG002 - as all operations
        """Close all files."""
        for number in list(self._handles):
            self._close(number)
        self.nodes.forget_all()
        return b""

    def look_up(self, number: int, body: bytes) -> bytes:
        """Return a file of a folder."""
        return self._entry(*self.nodes.look_up(number, body.partition(b"\0")[0]))

    def forget(self, number: int, body: bytes) -> bytes:
        """Take back references to a file."""
        self.nodes.forget(number, *protocol.FORGET.unpack_from(body))
        return b""

    def forget_many(self, _: int, body: bytes) -> bytes:
        """Take back references to files."""
        count, _ = protocol.FORGET_MANY.unpack_from(body)
        for index in range(min(count, len(body) // protocol.FORGET_ONE.size)):
            number, times = protocol.FORGET_ONE.unpack_from(body, 8 + index * protocol.FORGET_ONE.size)
            self.nodes.forget(number, times)
        return b""

    def attributes(self, number: int, body: bytes) -> bytes:
        """Return a file's attributes."""
        flags, _, handle = protocol.GET_ATTRIBUTES.unpack_from(body)
        if flags & protocol.OF_HANDLE:
            return self._attributes(os.fstat(self.handle(handle).descriptor))
        return self._attributes(self._stat(self.nodes.get(number)))

    def set_attributes(self, number: int, body: bytes) -> bytes:
        """Set some of a file's attributes."""
        (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid) = (
            protocol.SET_ATTRIBUTES.unpack_from(body)
        )
        node = self.nodes.get(number)
        path = str(self.nodes.descriptor(node))
        shown = self._owners.shown(self._stat(node))
        if (valid & protocol.SET_UID and uid != shown[0]) or (valid & protocol.SET_GID and gid != shown[1]):
            raise OSError(errno.EPERM, "files are the caller's")
        if valid & protocol.SET_MODE:
            if mode & _SET_ID and not node.is_folder:
                raise OSError(errno.EPERM, "programs run as the one who starts them")
            os.chmod(path, mode & 0o7777)  # noqa: PTH101 - pathlib takes its time to load
        if valid & protocol.SET_SIZE:
            if valid & protocol.BY_HANDLE:
                os.ftruncate(self.handle(handle).descriptor, size)
            elif node.kind in _OPENABLE:
                os.truncate(path, size)
            else:
                raise OSError(errno.EINVAL, "no file with a size")
        if valid & (protocol.SET_ATIME | protocol.SET_MTIME):
            accessed = (atime, atime_ns) if valid & protocol.SET_ATIME else calls.UNCHANGED
            changed = (mtime, mtime_ns) if valid & protocol.SET_MTIME else calls.UNCHANGED
            calls.set_times(
                path,
                calls.NOW if valid & protocol.ATIME_NOW else accessed,
                calls.NOW if valid & protocol.MTIME_NOW else changed,
            )
        return self._attributes(self._stat(node))

    def read_link(self, number: int, body: bytes) -> bytes:  # noqa: ARG002
        """Return where a symbolic link leads to."""
        return os.readlink(b"", dir_fd=self.nodes.descriptor(self.nodes.get(number)))

    def make_link(self, number: int, body: bytes) -> bytes:
        """Make a symbolic link."""
        name, target = body.split(b"\0")[:2]
        os.symlink(target, checked(name), dir_fd=self.nodes.folder(number))
        return self._entry(*self.nodes.look_up(number, name))

    def make_node(self, number: int, body: bytes) -> bytes:
        """Make a file, a pipe or a socket."""
        mode, _, _, _ = protocol.MAKE_NODE.unpack_from(body)
        name = checked(name_in(body, protocol.MAKE_NODE.size))
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK) or mode & _SET_ID:
            raise OSError(errno.EPERM, "no devices")
        os.mknod(name, mode, dir_fd=self.nodes.folder(number))
        return self._entry(*self.nodes.look_up(number, name))

    def make_folder(self, number: int, body: bytes) -> bytes:
        """Make a folder."""
        mode, _ = protocol.MAKE_FOLDER.unpack_from(body)
        name = checked(name_in(body, protocol.MAKE_FOLDER.size))
        os.mkdir(name, mode & 0o7777, dir_fd=self.nodes.folder(number))
        return self._entry(*self.nodes.look_up(number, name))

    def unlink(self, number: int, body: bytes) -> bytes:
        """Remove a name of a file."""
        os.unlink(checked(name_in(body, 0)), dir_fd=self.nodes.folder(number))
        return b""

    def remove_folder(self, number: int, body: bytes) -> bytes:
        """Remove an empty folder."""
        os.rmdir(checked(name_in(body, 0)), dir_fd=self.nodes.folder(number))
        return b""

    def rename(self, number: int, body: bytes) -> bytes:
        """Rename a file."""
        [target] = protocol.RENAME.unpack_from(body)
        return self._rename(number, target, 0, body[protocol.RENAME.size :])

    def rename_2(self, number: int, body: bytes) -> bytes:
        """Rename a file, not over another, or exchange two."""
        target, flags, _ = protocol.RENAME_2.unpack_from(body)
        return self._rename(number, target, flags, body[protocol.RENAME_2.size :])

    def link(self, number: int, body: bytes) -> bytes:
        """Make another name of a file."""
        [source] = protocol.LINK.unpack_from(body)
        name = checked(name_in(body, protocol.LINK.size))
        path = str(self.nodes.descriptor(self.nodes.get(source)))
        os.link(path, name, dst_dir_fd=self.nodes.folder(number), follow_symlinks=True)
        return self._entry(*self.nodes.look_up(number, name))

    def open(self, number: int, body: bytes) -> bytes:
        """Open a file."""
        flags, _ = protocol.OPEN.unpack_from(body)
        quiet = protocol.NO_FLUSH if flags & os.O_ACCMODE == os.O_RDONLY else 0
        return protocol.OPENED.pack(self._open(self.nodes.get(number), flags), quiet, 0)

    def create(self, number: int, body: bytes) -> bytes:
        """Make a file and open it."""
        flags, mode, _, _ = protocol.CREATE.unpack_from(body)
        name = checked(name_in(body, protocol.CREATE.size))
        if mode & _SET_ID:
            raise OSError(errno.EPERM, "programs run as the one who starts them")
        wanted = flags & protocol.OPEN_FLAGS
        try:  # one that is there may be no file, and is not opened before that is known
            descriptor = os.open(
                name, wanted | _CREATED | os.O_EXCL, mode & 0o7777, dir_fd=self.nodes.folder(number)
            )
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            node, found = self.nodes.look_up(number, name)
            handle = self._open(node, flags)
        else:
            held = os.open(str(descriptor), os.O_PATH | os.O_CLOEXEC)
            node, found = self.nodes.hold(held, (self.nodes.get(number), name))
            handle = self._opened(node, descriptor, appends=bool(flags & os.O_APPEND))
        return self._entry(node, found) + protocol.OPENED.pack(handle, 0, 0)

    def open_folder(self, number: int, body: bytes) -> bytes:  # noqa: ARG002
        """Open a folder to list it."""
        node = self.nodes.get(number)
        descriptor = os.open(str(self.nodes.folder(number)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return protocol.OPENED.pack(self._opened(node, descriptor), 0, 0)

    def release(self, _: int, body: bytes) -> bytes:
        """Close a file or a folder."""
        handle, _, _, _ = protocol.RELEASE.unpack_from(body)
        self._close(handle)
        return b""

    def read_folder(self, _: int, body: bytes) -> bytes:
        """Return names of a folder."""
        return self._listed(body, _plain, 0)

    def read_folder_plus(self, _: int, body: bytes) -> bytes:
        """Return names of a folder, with the files' attributes."""
        return self._listed(body, self._plus, protocol.ENTRY.size + protocol.ATTRIBUTES.size)

    def flush(self, _: int, body: bytes) -> bytes:
        """Return the error of a write that was not known then, as at each close(2)."""
        [handle] = protocol.FORGET.unpack_from(body)
        os.close(os.dup(self.handle(handle).descriptor))
        return b""

    def sync(self, _: int, body: bytes) -> bytes:
        """Write a file or a folder to the disk."""
        handle, flags, _ = protocol.SYNC.unpack_from(body)
        descriptor = self.handle(handle).descriptor
        os.fdatasync(descriptor) if flags & protocol.DATA_ONLY else os.fsync(descriptor)
        return b""

    def statistics(self, number: int, body: bytes) -> bytes:  # noqa: ARG002
        """Return the room that the file system has."""
        found = os.fstatvfs(self.nodes.descriptor(self.nodes.get(number)))
        return protocol.STATFS.pack(
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_bsize,
            found.f_namemax,
            found.f_frsize,
            0,
        )

    def allocate(self, _: int, body: bytes) -> bytes:
        """Allocate or free blocks of a file."""
        handle, offset, length, mode, _ = protocol.ALLOCATE.unpack_from(body)
        calls.allocate(self.handle(handle).descriptor, mode, offset, length)
        return b""

    def seek(self, _: int, body: bytes) -> bytes:
        """Return the next data or hole of a file."""
        handle, offset, whence, _ = protocol.SEEK.unpack_from(body)
        return protocol.FORGET.pack(os.lseek(self.handle(handle).descriptor, offset, whence))

    def copy(self, _: int, body: bytes) -> bytes:
        """Copy from a file to another."""
        source, start, _, target, offset, length, _ = protocol.COPY.unpack_from(body)
        done = os.copy_file_range(
            self.handle(source).descriptor,
            self._at_offset(self.handle(target)),
            min(length, 1 << 30),
            start,
            offset,
        )
        return protocol.WRITTEN.pack(done, 0)

    def read(self, body: bytes, into: list[memoryview]) -> int:
        """Read from a file into the guest's memory; return how much."""
        handle, offset, *_ = protocol.READ.unpack_from(body)
        return os.preadv(self.handle(handle).descriptor, into, offset)

    def write(self, body: bytes, data: list[memoryview]) -> bytes:
        """Write the guest's data to a file."""
        number, offset, _, flags, _, _, _ = protocol.WRITE.unpack_from(body)
        handle = self.handle(number)
        descriptor = self._at_offset(handle) if flags & protocol.FROM_CACHE else handle.descriptor
        return protocol.WRITTEN.pack(os.pwritev(descriptor, data, offset), 0)

    def _stat(self, node: Node) -> os.stat_result:
        return os.fstat(self.nodes.descriptor(node))

    def _attributes(self, found: os.stat_result) -> bytes:
        own = protocol.attributes(found, *self._owners.shown(found))
        return protocol.ATTRIBUTES_FOUND.pack(_VALID, 0, 0) + own

    def _entry(self, node: Node, found: os.stat_result) -> bytes:
        own = protocol.attributes(found, *self._owners.shown(found))
        return protocol.ENTRY.pack(node.number, 0, _VALID, _VALID, 0, 0) + own

    def _rename(self, number: int, target: int, flags: int, names: bytes) -> bytes:
        name, new_name = (checked(each) for each in names.split(b"\0")[:2])
        calls.rename(self.nodes.folder(number), name, self.nodes.folder(target), new_name, flags)
        self.nodes.moved(number, name, target, new_name)
        return b""

    def _open(self, node: Node, flags: int) -> int:
        if node.kind not in _OPENABLE:
            raise OSError(errno.ENXIO, "not a file")
        descriptor = os.open(str(self.nodes.descriptor(node)), flags & protocol.OPEN_FLAGS | os.O_CLOEXEC)
        return self._opened(node, descriptor, appends=bool(flags & os.O_APPEND))

    def _opened(self, node: Node, descriptor: int, *, appends: bool = False) -> int:
        number = self._next
        self._next += 1
        self._handles[number] = Handle(node, descriptor, appends)
        node.opened += 1
        return number

    def _close(self, number: int) -> None:
        handle = self.handle(number)
        del self._handles[number]
        os.close(handle.descriptor)
        if handle.at_offset is not None:
            os.close(handle.at_offset)
        self.nodes.release(handle.node)

    def _at_offset(self, handle: Handle) -> int:
        """Return a descriptor that writes at an offset: one that appends does not."""
        if not handle.appends:
            return handle.descriptor
        if handle.at_offset is None:
            handle.at_offset = os.open(str(handle.descriptor), os.O_RDWR | os.O_CLOEXEC)
        return handle.at_offset

    def _listed(
        self, body: bytes, entry: Callable[[Handle, bytes, int, int, int], bytes], extra: int
    ) -> bytes:
        number, offset, size, *_ = protocol.READ.unpack_from(body)
        handle = self.handle(number)
        if not offset:
            handle.entries = entries_of(handle.descriptor, handle.node.key[1])
        answer = bytearray()
        for index in range(offset, len(handle.entries)):
            name, inode, kind = handle.entries[index]
            if len(answer) + extra + protocol.NAME.size + len(name) + 7 > min(size, LARGEST):
                break
            answer += entry(handle, name, inode, kind, index + 1)
        return bytes(answer)

    def _plus(self, handle: Handle, name: bytes, number: int, kind: int, following: int) -> bytes:
        entry = bytes(protocol.ENTRY.size + protocol.ATTRIBUTES.size)
        if name not in (b".", b".."):
            with contextlib.suppress(OSError):  # removed in the meantime: it is looked up again
                entry = self._entry(*self.nodes.look_up(handle.node.number, name))
        return entry + protocol.folder_entry(name, number, kind, following)


def _plain(_: Handle, name: bytes, number: int, kind: int, following: int) -> bytes:
    return protocol.folder_entry(name, number, kind, following)


OPERATIONS: dict[int, Callable[[Files, int, bytes], bytes]] = {
    1: Files.look_up,
    2: Files.forget,
    3: Files.attributes,
    4: Files.set_attributes,
    5: Files.read_link,
    6: Files.make_link,
    8: Files.make_node,
    9: Files.make_folder,
    10: Files.unlink,
    11: Files.remove_folder,
    12: Files.rename,
    13: Files.link,
    14: Files.open,
    17: Files.statistics,
    18: Files.release,
    20: Files.sync,
    21: lambda files, number, body: xattrs.set_value(files.nodes, number, body),
    22: lambda files, number, body: xattrs.value(files.nodes, number, body),
    23: lambda files, number, body: xattrs.names(files.nodes, number, body),
    24: lambda files, number, body: xattrs.remove(files.nodes, number, body),
    25: Files.flush,
    26: Files.initialize,
    27: Files.open_folder,
    28: Files.read_folder,
    29: Files.release,
    30: Files.sync,
    35: Files.create,
    38: Files.destroy,
    42: Files.forget_many,
    43: Files.allocate,
    44: Files.read_folder_plus,
    45: Files.rename_2,
    46: Files.seek,
    47: Files.copy,
}
READ, WRITE = 15, 16
