"""An EROFS image made from the members of a tar, in one pass and in bounded memory.

File data is written as it comes, and so are inodes, in runs of blocks between it; in memory are the names,
each with a number. The folders are written last. Members are hostile input: what would escape the root, or
what no file system could store, is an ArtifactError.

Source: Linux, Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from bot_bottle.erofs import format as f
from bot_bottle.erofs.folder import Attributes, Folder, all_folders
from bot_bottle.erofs.region import Region, append
from bot_bottle.errors import ArtifactError
from bot_bottle.tar.reader import REGULAR

XATTR = "SCHILY.xattr."

_ROOT = f.SUPERBLOCK_OFFSET + f.SUPERBLOCK.size  # where the root's inode is: its nid has only 16 bits
_RUN = 16 * f.BLOCK  # bytes of inodes between data
_TAIL = f.BLOCK // 2  # bytes of data from which on a whole block for them wastes less
_PATH_MAX = 4095  # bytes, also of a symlink's target: limits.h
_ID_MAX = 0xFFFFFFFE  # the next number means "no user"
_SECONDS = 1 << 62
_DATA_LIMIT = 128 << 30  # bytes of files, holes included; smolvm unpacks no more
_ENTRY_COST, _FOLDER_COST = 200, 700  # bytes of memory, measured
_QUOTA = 1 << 30  # bytes; more than two million entries, the most that smolvm takes

_KINDS = {
    **dict.fromkeys(REGULAR, stat.S_IFREG),
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class ImageWriter:
    """Writes an image to a new, seekable file. After `finish` the file is complete, and not yet flushed.

    `memory` is how many bytes the names may take.
    """

    def __init__(self, file: BinaryIO, *, memory: int = _QUOTA) -> None:
        self._file = file
        self._root = Folder()
        self._near: tuple[bytes, Folder] = (b"", self._root)  # the last folder that was looked up
        self._block = 1  # the next one that is free
        self._inodes = 0
        self._nlinks: dict[int, int] = {}  # of files by their nid, where it is not 1
        self._run = Region(file, 0)  # of inodes
        self._root_inode = b""
        self._at = self._run_end = 0
        self._quota = memory
        self._data_left = _DATA_LIMIT
        file.seek(f.BLOCK)

    def member(self, member: tarfile.TarInfo, pieces: Iterator[bytes]) -> None:
        """Add a member of a tar (`tar.reader.Headers`), `pieces` being a regular file's data.

        A later member takes the place of an earlier one, except that a folder and another kind do not replace
        each other. Folders that have no member get mode 0755 and owner root. Raises ArtifactError, OSError.
        """
        name = _bytes(member.name)
        if member.type == tarfile.LNKTYPE:
            self._link(name, _bytes(member.linkname))
            return
        try:
            attributes = _attributes(member)
            if member.type == tarfile.DIRTYPE:
                self._make_folder(name).attributes = attributes
                return
            folder, last = self._place(name)
            if member.type in REGULAR:
                child = self._write_file(attributes, member.size, pieces)
            elif member.type == tarfile.SYMTYPE:
                child = self._write_symlink(attributes, _bytes(member.linkname))
            else:
                number = 0
                if member.type != tarfile.FIFOTYPE:
                    number = f.encode_device(member.devmajor, member.devminor)
                child = self._write_inode(attributes, f.PLAIN, 0, number)
        except ValueError as error:
            raise _refused(str(error), name) from error
        self._set_child(folder, last, child)

    def add_file(self, name: bytes, data: bytes, mode: int) -> None:
        """Add a regular file of root's. Raises ArtifactError, OSError."""
        folder, last = self._place(name)
        attributes = Attributes(stat.S_IFREG | mode)
        self._set_child(folder, last, self._write_file(attributes, len(data), iter([data])))

    @property
    def size(self) -> int:
        """The bytes of the image up to which data has been written, or reserved for inodes."""
        return self._block * f.BLOCK

    def finish(self) -> int:
        """Write the folders and the superblock; return the number of inodes.

        Raises ArtifactError, OSError.
        """
        self._run.flush()
        folders = all_folders(self._root)
        inodes = self._place_folders(folders)
        end = self._write_folders(folders, inodes)
        for nid, count in self._nlinks.items():
            self._file.seek(nid * f.SLOT + f.NLINK_OFFSET)
            self._file.write(count.to_bytes(4, "little"))
        end = f.aligned(end, f.BLOCK)
        self._file.truncate(end)
        self._inodes += len(folders)
        self._write_first_block(end // f.BLOCK)
        return self._inodes

    def _spend(self, cost: int) -> None:
        self._quota -= cost
        if self._quota < 0:
            raise ArtifactError("the root filesystem has too many files")

    def _folder(self, path: bytes) -> Folder:
        """Return the folder of this path; missing ones are made."""
        if path == self._near[0]:
            return self._near[1]
        folder = self._root
        for part in _parts(path):
            child = folder.children.get(part)
            if child is None:
                self._spend(_FOLDER_COST + len(part))
                child = folder.children[part] = Folder(folder)
            elif not isinstance(child, Folder):
                raise _refused("a name below something that is not a folder", path)
            folder = child
        self._near = (path, folder)
        return folder

    def _place(self, path: bytes) -> tuple[Folder, bytes]:
        """Return the folder in which a path names anything but a folder, and the name in it."""
        _check(path)
        head, _, last = path.rstrip(b"/").rpartition(b"/")
        _parts(last)
        if last in (b"", b"."):
            raise _refused("a file in the place of a folder", path)
        folder = self._folder(head)
        if isinstance(folder.children.get(last), Folder):
            raise _refused("a file in the place of a folder", path)
        return folder, last

    def _make_folder(self, path: bytes) -> Folder:
        _check(path)
        return self._folder(path.rstrip(b"/"))

    def _set_child(self, folder: Folder, name: bytes, child: int) -> None:
        old = folder.children.get(name)
        if isinstance(old, int):
            self._count_link(old >> 3, -1)
        else:
            self._spend(_ENTRY_COST + len(name))
        folder.children[name] = child

    def _count_link(self, nid: int, change: int) -> None:
        count = self._nlinks.pop(nid, 1) + change
        if count:
            self._nlinks[nid] = count
        else:
            self._inodes -= 1  # its last name has been replaced

    def _link(self, name: bytes, target: bytes) -> None:
        _check(target)
        folder = self._root
        *heads, last = _parts(target) or [b""]
        for part in heads:
            below = folder.children.get(part)
            if not isinstance(below, Folder):
                raise _refused("a hard link to nothing", name)
            folder = below
        child = folder.children.get(last)
        if child is None and last:
            raise _refused("a hard link to nothing", name)
        if not isinstance(child, int):
            raise _refused("a hard link to a folder", name)
        place, own = self._place(name)
        if place.children.get(own) != child:
            self._count_link(child >> 3, 1)
            self._set_child(place, own, child)

    def _write_file(self, attributes: Attributes, size: int, pieces: Iterator[bytes]) -> int:
        self._data_left -= size
        if self._data_left < 0:
            raise ArtifactError("the root filesystem is too large")
        tail = size % f.BLOCK
        inline = 0 < tail <= _TAIL and f.INODE.size + len(attributes.xattrs) + tail <= f.BLOCK
        begin = self._block if size > tail or (tail and not inline) else f.NO_BLOCK
        rest = self._write_data(size, size - tail if inline else size, pieces)
        return self._write_inode(attributes, f.INLINE if inline else f.PLAIN, size, begin, rest)

    def _write_data(self, size: int, count: int, pieces: Iterator[bytes]) -> bytes:
        """Write the first `count` bytes of a file's data into blocks, and return the rest."""
        rest = b""
        left = count
        for piece in pieces:
            size -= len(piece)
            if len(piece) <= left:
                append(self._file, piece)
                left -= len(piece)
            else:
                append(self._file, piece[:left])
                rest += piece[left:]
                left = 0
        if size:
            raise ArtifactError("a file of the root filesystem has another size than stated")
        self._file.write(bytes(-count % f.BLOCK))
        self._block += -(-count // f.BLOCK)
        return rest

    def _write_symlink(self, attributes: Attributes, target: bytes) -> int:
        if not 0 < len(target) <= _PATH_MAX or b"\0" in target:
            raise ValueError("a symlink that no file system can store")
        return self._write_file(attributes, len(target), iter([target]))

    def _write_inode(
        self, attributes: Attributes, layout: int, size: int, place: int, tail: bytes = b""
    ) -> int:
        """Write an inode with its attributes and the tail of its data; return it as a child of a folder."""
        body = self._packed(attributes, layout, size, place, 1) + tail
        at = self._reserve(len(body))
        self._run.put(at, body)
        self._inodes += 1
        return at // f.SLOT << 3 | f.FILE_TYPES[stat.S_IFMT(attributes.mode)]

    def _packed(self, attributes: Attributes, layout: int, size: int, place: int, nlink: int) -> bytes:
        mode, uid, gid, mtime, nanoseconds, xattrs = attributes
        count = (len(xattrs) - f.XATTR_HEADER.size) // f.XATTR_ALIGN + 1 if xattrs else 0
        return f.INODE.pack(
            f.EXTENDED | layout << 1, count, mode, 0, size, place, self._inodes + 1 & 0xFFFFFFFF, uid, gid,
            mtime & 0xFFFFFFFF_FFFFFFFF, nanoseconds, nlink,
        ) + xattrs  # fmt: skip

    def _reserve(self, size: int) -> int:
        """Return a position for an inode: in one block where it fits into one."""
        at = _fitting(self._at, size)
        if at + size > self._run_end:
            self._run.flush()
            at = self._block * f.BLOCK
            self._run = Region(self._file, at)
            self._run_end = at + max(_RUN, f.aligned(size, f.BLOCK))
            self._block = self._run_end // f.BLOCK
            self._file.seek(self._run_end)
        self._at = at + size
        return at

    def _place_folders(self, folders: list[Folder]) -> int:
        """Set the folders' nids. Return where their inodes begin: behind the blocks of their names."""
        blocks = at = 0
        for folder in folders:
            folder.measure()
            blocks += _blocks_of(folder)
        begin = (self._block + blocks) * f.BLOCK
        for folder in folders:
            if folder is self._root:
                folder.nid = _ROOT // f.SLOT
                continue
            size = _inode_size(folder)
            at = _fitting(at, size)
            folder.nid = (begin + at) // f.SLOT
            at += size
        return begin

    def _write_folders(self, folders: list[Folder], inodes_begin: int) -> int:
        """Write the folders, and return the position behind them."""
        names = Region(self._file, self._block * f.BLOCK)
        inodes = Region(self._file, inodes_begin)
        end = inodes_begin
        for folder in folders:
            count = _blocks_of(folder)
            inline = folder is not self._root and count * f.BLOCK < folder.size
            place = self._block if count else f.NO_BLOCK
            body = self._packed(
                folder.attributes, f.INLINE if inline else f.PLAIN, folder.size, place, 2 + folder.subfolders
            )
            for number, block in enumerate(folder.blocks()):
                if number < count:
                    names.put(self._block * f.BLOCK, block)
                    self._block += 1
                else:
                    body += block
            if folder is self._root:
                self._root_inode = body
            else:
                inodes.put(folder.nid * f.SLOT, body)
                end = folder.nid * f.SLOT + len(body)
        names.flush()
        inodes.flush()
        return end

    def _write_first_block(self, blocks: int) -> None:
        superblock = f.SUPERBLOCK.pack(
            f.MAGIC, 0, f.HAS_CHECKSUM | f.HAS_MTIME, f.BLOCK_BITS, 0, _ROOT // f.SLOT, self._inodes,
            0, 0, blocks, 0, 0, bytes(16), b"bot-bottle", 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        block = bytearray(f.BLOCK)
        block[f.SUPERBLOCK_OFFSET : _ROOT] = superblock
        if _ROOT + len(self._root_inode) > f.BLOCK:
            raise ArtifactError("the root folder has too many extended attributes")
        block[_ROOT : _ROOT + len(self._root_inode)] = self._root_inode
        block[f.CHECKSUM_OFFSET : f.CHECKSUM_OFFSET + 4] = f.superblock_checksum(block).to_bytes(4, "little")
        self._file.seek(0)
        self._file.write(block)


def _inode_size(folder: Folder) -> int:
    """Return the size of a folder's inode with its attributes and, where they fit, its last names."""
    head = f.INODE.size + len(folder.attributes.xattrs)
    tail = folder.size % f.BLOCK
    return head + tail if head + tail <= f.BLOCK else head


def _blocks_of(folder: Folder) -> int:
    """Return the number of whole blocks that a folder's names need."""
    tail = folder.size % f.BLOCK
    inline = folder.parent is not folder and f.INODE.size + len(folder.attributes.xattrs) + tail <= f.BLOCK
    return folder.size // f.BLOCK + (1 if tail and not inline else 0)


def _fitting(at: int, size: int) -> int:
    """Return the first position from `at` on for an inode, within one block where it fits into one."""
    at = f.aligned(at, f.SLOT)
    return f.aligned(at, f.BLOCK) if at % f.BLOCK + size > f.BLOCK else at


def _check(path: bytes) -> None:
    if path.startswith(b"/"):
        raise _refused("an absolute name", path)
    if len(path) > _PATH_MAX or b"\0" in path:
        raise _refused("a name that no file system can store", path)


def _parts(path: bytes) -> list[bytes]:
    """Split a relative path into names."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise _refused("a name with `..`", path)
    if any(len(part) > f.NAME_MAX for part in parts):
        raise _refused("a name that no file system can store", path)
    return parts


def _attributes(member: tarfile.TarInfo) -> Attributes:
    kind = _KINDS[member.type]
    if not (0 <= member.uid <= _ID_MAX and 0 <= member.gid <= _ID_MAX):
        raise ValueError("an owner that no system has")
    mtime = int(member.mtime)
    if abs(mtime) > _SECONDS:
        raise ValueError("an impossible time")
    mode = kind | (0o777 if kind == stat.S_IFLNK else member.mode & 0o7777)
    records = member.pax_headers
    if not records:
        return Attributes(mode, member.uid, member.gid, mtime)
    xattrs = {
        _bytes(key.removeprefix(XATTR)): _bytes(value)
        for key, value in records.items()
        if key.startswith(XATTR) and value  # engines ignore an empty one
    }
    fraction = records.get("mtime", "").partition(".")[2][:9]
    nanoseconds = int(fraction.ljust(9, "0")) if fraction.isascii() and fraction.isdigit() else 0
    return Attributes(mode, member.uid, member.gid, mtime, nanoseconds, f.xattr_body(xattrs))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refused(why: str, name: bytes) -> ArtifactError:
    shown = repr(name[:200].decode("utf-8", "backslashreplace"))
    return ArtifactError("the root filesystem cannot be stored", why=f"{why}: {shown}")
