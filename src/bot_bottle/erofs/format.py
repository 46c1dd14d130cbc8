"""EROFS on-disk structures, as far as an uncompressed image needs them. Integers are little-endian.

Source: Linux, Documentation/filesystems/erofs.rst ("On-disk details") and fs/erofs/erofs_fs.h, whose names
are in the comments. The metadata area begins at block 0 here, so an inode's number (nid) is its position in
the image in units of SLOT bytes.
"""

from __future__ import annotations

import stat
import struct

BLOCK = 4096
BLOCK_BITS = 12
SLOT = 1 << 5  # EROFS_ISLOTBITS: inodes begin at multiples of it

MAGIC = 0xE0F5E1E2  # EROFS_SUPER_MAGIC_V1
SUPERBLOCK_OFFSET = 1024
SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")  # struct erofs_super_block
CHECKSUM_OFFSET = SUPERBLOCK_OFFSET + 4

HAS_CHECKSUM = 1  # EROFS_FEATURE_COMPAT_SB_CHKSUM
HAS_MTIME = 2  # EROFS_FEATURE_COMPAT_MTIME: an inode's time is its mtime, not its ctime

INODE = struct.Struct("<HHHHQIIIIQII16x")  # struct erofs_inode_extended
NLINK_OFFSET = 44  # of i_nlink in it
EXTENDED = 1  # i_format, bit 0: the inode has 64 bytes
PLAIN = 0  # i_format, bits 1 to 3: EROFS_INODE_FLAT_PLAIN, all data in blocks
INLINE = 2  # EROFS_INODE_FLAT_INLINE: what does not fill a block follows the inode, within one block
NO_BLOCK = 0xFFFFFFFF  # where there is none

DIRENT = struct.Struct("<QHBB")  # struct erofs_dirent; the names follow those of their block
NAME_MAX = 255  # EROFS_NAME_LEN

XATTR_HEADER = struct.Struct("<IB7x")  # struct erofs_xattr_ibody_header
XATTR_ENTRY = struct.Struct("<BBH")  # struct erofs_xattr_entry
XATTR_ALIGN = 4
XATTR_BODY_MAX = XATTR_HEADER.size + 0xFFFE * XATTR_ALIGN  # i_xattr_icount has 16 bits

XATTR_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))  # EROFS_XATTR_INDEX_*
XATTR_NAMES = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}

FILE_TYPES = {  # the dirents' file_type: FT_* of include/linux/fs_types.h
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}

_CRC32C = 0x82F63B78  # the polynomial of RFC 3720, appendix B.4, reflected


def superblock_checksum(block: bytes | bytearray) -> int:
    """Return the checksum of an image's first block, whose checksum field is zero.

    It is the CRC-32C of the bytes from the superblock on, without the final inversion
    (fs/erofs/super.c, erofs_superblock_csum_verify).
    """
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in block[SUPERBLOCK_OFFSET:]:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


def xattr_body(pairs: dict[bytes, bytes]) -> bytes:
    """Return the extended attributes that follow an inode: b"" for none.

    Namespaces that the kernel does not read from EROFS are left out. Raises ValueError for a name, a value or
    a whole that is too large.
    """
    entries = [_xattr(*found, pairs[name]) for name in sorted(pairs) if (found := _xattr_name(name))]
    if not entries:
        return b""
    body = XATTR_HEADER.pack(0, 0) + b"".join(entries)
    if len(body) > XATTR_BODY_MAX:
        raise ValueError(f"{len(body)} bytes of extended attributes")
    return body


def _xattr_name(name: bytes) -> tuple[int, bytes] | None:
    if name in XATTR_NAMES:
        return XATTR_NAMES[name], b""
    for prefix, index in XATTR_PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :]
    return None


def _xattr(index: int, name: bytes, value: bytes) -> bytes:
    if len(name) > 0xFF or len(value) > 0xFFFF:
        raise ValueError(f"an extended attribute of {len(name)} + {len(value)} bytes")
    entry = XATTR_ENTRY.pack(len(name), index, len(value)) + name + value
    return entry + bytes(-len(entry) % XATTR_ALIGN)


def encode_device(major: int, minor: int) -> int:
    """Return a device's number (new_encode_dev). Raises ValueError for numbers that Linux does not have."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise ValueError(f"device {major}:{minor}")
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def aligned(position: int, unit: int) -> int:
    """Round a position up to a multiple of `unit`."""
    return -(-position // unit) * unit
