"""The writable disk of a guest: an empty ext4 file system in a sparse file, written without a tool.

Nothing but the first blocks is written. Block and inode bitmaps of all groups but the first are marked as not
initialized, and inode tables as zeroed, which a sparse file is: the kernel reads none of them before it uses
the group. It has no journal: nobody uses it after its guest.

Source: Linux, Documentation/filesystems/ext4/.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_BLOCK = 4096
_GROUP = 8 * _BLOCK  # blocks of a group: one bitmap block has a bit for each
_INODES = 8192  # of a group, as mke2fs has them for this size: one for 16 KiB
_INODE = 256
_TABLE = _INODES * _INODE // _BLOCK
_FIRST_FREE = 11  # the first inode that is not reserved

_COMPAT = 0x0008 | 0x0020  # ext_attr, dir_index
_INCOMPAT = 0x0002 | 0x0040  # filetype, extents
_RO_COMPAT = 0x0001 | 0x0002 | 0x0008 | 0x0010 | 0x0020 | 0x0040  # sparse_super, large_file, huge_file,
# gdt_csum, dir_nlink, extra_isize
_INODE_UNINIT, _BLOCK_UNINIT, _ZEROED = 1, 2, 4
_EXTENTS = 0x80000  # EXT4_EXTENTS_FL

_SMALLEST = 64 << 20


def write_storage(path: Path, size: int, folders: Mapping[str, int]) -> None:
    """Write a disk of `size` bytes with these folders of root, by name and mode. Raises OSError.

    ValueError for a size that is too small to be of use.
    """
    if size < _SMALLEST:
        raise ValueError(f"a disk of {size} bytes is too small")
    layout = _Layout(size // _BLOCK, len(folders))
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(layout.blocks * _BLOCK)
        for at, data in layout.written(folders):
            file.seek(at)
            file.write(data)


class _Layout:
    """The numbers of a file system. Each group has its bitmaps and inode table at its begin."""

    def __init__(self, blocks: int, folders: int) -> None:
        groups = -(-blocks // _GROUP)
        self.descriptors = -(-groups * 32 // _BLOCK)
        # a last group without room for its own tables is left out
        if blocks - (groups - 1) * _GROUP < self._overhead(groups - 1) + 64:
            groups -= 1
            blocks = groups * _GROUP
        self.blocks, self.groups = blocks, groups
        self.identity = os.urandom(16)
        self._seed = crc16(self.identity)
        self.folders = folders
        self.used = self._overhead(0) + 1 + folders  # blocks of the first group

    def _overhead(self, group: int) -> int:
        return (1 + self.descriptors if has_copy(group) else 0) + 2 + _TABLE

    def _size(self, group: int) -> int:
        return min(_GROUP, self.blocks - group * _GROUP)

    def _places(self, group: int) -> tuple[int, int, int]:
        first = group * _GROUP + (1 + self.descriptors if has_copy(group) else 0)
        return first, first + 1, first + 2

    def written(self, folders: Mapping[str, int]) -> list[tuple[int, bytes]]:
        """Return the bytes to write, with their offsets."""
        free = [self._size(group) - self._overhead(group) for group in range(self.groups)]
        free[0] = self._size(0) - self.used
        table = b"".join(self._descriptor(group, free[group]) for group in range(self.groups))
        found = []
        for group in filter(has_copy, range(self.groups)):
            head = self._superblock(sum(free), group)
            found += [(group * _GROUP * _BLOCK + (0 if group else 1024), head)]
            found += [((group * _GROUP + 1) * _BLOCK, table)]
        bitmap, inode_bitmap, inodes = self._places(0)
        first = inodes + _TABLE  # the root folder's block, then those of the others
        found += [
            (bitmap * _BLOCK, _bits(self.used, self._size(0))),
            (inode_bitmap * _BLOCK, _bits(_FIRST_FREE - 1 + self.folders, _INODES)),
            (inodes * _BLOCK + _INODE, _folder_inode(0o755, first, 2 + self.folders)),
            (first * _BLOCK, _names(2, 2, {name: _FIRST_FREE + at for at, name in enumerate(folders)})),
        ]
        if last := self.groups - 1:
            bitmap = self._places(last)[0]
            found.append((bitmap * _BLOCK, _bits(self._overhead(last), self._size(last))))
        for at, mode in enumerate(folders.values()):
            number, block = _FIRST_FREE + at, first + 1 + at
            found.append((inodes * _BLOCK + (number - 1) * _INODE, _folder_inode(mode, block, 2)))
            found.append((block * _BLOCK, _names(number, 2, {})))
        return found

    def _superblock(self, free: int, group: int) -> bytes:
        now = int(time.time())
        inodes = self.groups * _INODES
        raw = bytearray(1024)
        struct.pack_into(
            "<13I6H4I2H4I",
            raw,
            0,
            *(inodes, self.blocks, 0, free, inodes - (_FIRST_FREE - 1) - self.folders),
            *(0, 2, 2, _GROUP, _GROUP, _INODES, 0, now),  # first_data_block to wtime
            *(0, 0xFFFF, 0xEF53, 1, 1, 0),  # mnt_count to minor_rev_level: clean, errors=continue
            *(now, 0, 0, 1),  # lastcheck, checkinterval, creator_os, rev_level
            *(0, 0),  # resuid, resgid
            *(_FIRST_FREE, _INODE | group << 16, _COMPAT, _INCOMPAT),
        )
        struct.pack_into("<I16s", raw, 0x64, _RO_COMPAT, self.identity)
        struct.pack_into("<4IB", raw, 0xEC, *struct.unpack("<4I", self.identity), 1)  # s_hash_seed: half MD4
        struct.pack_into("<2H", raw, 0x15C, 32, 32)  # min_extra_isize, want_extra_isize
        struct.pack_into("<I", raw, 0x160, 0x0002)  # flags: unsigned hash of names
        return bytes(raw)

    def _descriptor(self, group: int, free: int) -> bytes:
        first = group == 0
        flags = _ZEROED | (0 if first else _INODE_UNINIT | _BLOCK_UNINIT)
        if group == self.groups - 1 and not first:
            flags &= ~_BLOCK_UNINIT  # the last may be short, which only its bitmap says
        unused = _INODES - (_FIRST_FREE - 1) - self.folders if first else _INODES
        head = struct.pack(
            "<3I4HI2H",
            *self._places(group),
            *(free, unused, 1 + self.folders if first else 0, flags, 0, 0, 0),
        )
        head += struct.pack("<H", unused)
        return head + struct.pack("<H", crc16(struct.pack("<I", group) + head, self._seed))


def has_copy(group: int) -> bool:
    """Return whether a group has a copy of the superblock: 0, 1, and powers of 3, 5 and 7."""
    if group < 2:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _reduced(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(map(_reduced, range(256)))


def crc16(data: bytes, crc: int = 0xFFFF) -> int:
    """Return the CRC-16 of data (polynomial 0x8005, reflected), `crc` being that of what comes before."""
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def _bits(used: int, size: int) -> bytes:
    """Return a bitmap block whose first `used` bits are set, and those that `size` does not have."""
    return (((1 << _GROUP) - 1) ^ (((1 << size) - 1) ^ ((1 << used) - 1))).to_bytes(_BLOCK, "little")


def _folder_inode(mode: int, block: int, links: int) -> bytes:
    now = int(time.time())
    head = struct.pack(
        "<2H5I2H3I", stat.S_IFDIR | mode, 0, _BLOCK, now, now, now, 0, 0, links, _BLOCK // 512, _EXTENTS, 0
    )
    extent = struct.pack("<4HI", 0xF30A, 1, 4, 0, 0) + struct.pack("<I2HI", 0, 1, 0, block)
    return head + extent.ljust(60, b"\0") + bytes(28) + struct.pack("<H", 32)


def _names(own: int, parent: int, names: Mapping[str, int]) -> bytes:
    """Return the block of a folder's names."""
    entries = [(own, b"."), (parent, b".."), *((number, name.encode()) for name, number in names.items())]
    block = b""
    for at, (number, name) in enumerate(entries):
        length = (8 + len(name) + 3) // 4 * 4
        if at == len(entries) - 1:
            length = _BLOCK - len(block)
        block += struct.pack("<IHBB", number, length, len(name), 2) + name.ljust(length - 8, b"\0")
    return block
