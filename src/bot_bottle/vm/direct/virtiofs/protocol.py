"""The layout of the guest kernel's requests for files and of their answers (linux/fuse.h)."""

from __future__ import annotations

import os
import stat
from struct import Struct

REQUEST = Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
ANSWER = Struct("<IiQ")  # length, error, unique

INIT = Struct("<IIII")  # major, minor, read-ahead, flags
INITIALIZED = Struct("<IIIIHHIIHHII24x")
ATTRIBUTES = Struct("<6Q10I")
ATTRIBUTES_FOUND = Struct("<QII")  # seconds, nanoseconds of validity, padding; then ATTRIBUTES
ENTRY = Struct("<QQQQII")  # node, generation, seconds of validity of name, of attributes, nanoseconds
GET_ATTRIBUTES = Struct("<IIQ")  # flags, padding, handle
SET_ATTRIBUTES = Struct("<IIQQQQQQ4I4xII4x")
MAKE_NODE = Struct("<IIII")  # mode, device, umask, padding
MAKE_FOLDER = Struct("<II")  # mode, umask
RENAME = Struct("<Q")  # folder
RENAME_2 = Struct("<QII")  # folder, flags, padding
LINK = Struct("<Q")  # node
OPEN = Struct("<II")  # flags, more flags
OPENED = Struct("<QII")  # handle, flags, padding
CREATE = Struct("<IIII")  # flags, mode, umask, more flags
READ = Struct("<QQIIQII")  # handle, offset, size, flags, lock owner, flags of the file, padding
WRITE = Struct("<QQIIQII")
WRITTEN = Struct("<II")  # size, padding
RELEASE = Struct("<QIIQ")  # handle, flags, flags, lock owner
SYNC = Struct("<QII")  # handle, flags, padding
STATFS = Struct("<5Q4I24x")
SET_XATTR = Struct("<II")  # size, flags
GET_XATTR = Struct("<II")  # size, padding
ALLOCATE = Struct("<QQQII")  # handle, offset, length, mode, padding
SEEK = Struct("<QQII")  # handle, offset, whence, padding
COPY = Struct("<7Q")  # handle, offset, node, handle, offset, length, flags
FORGET = Struct("<Q")  # count
FORGET_MANY = Struct("<II")  # count, padding
FORGET_ONE = Struct("<QQ")  # node, count
NAME = Struct("<QQII")  # inode number, offset of the next, length, type; then the name

MAJOR, MINOR = 7, 36
ROOT = 1  # the number of the top folder's node

# what we ask of the guest's kernel, of what it offers
ASYNC_READ, ATOMIC_TRUNCATE, BIG_WRITES = 1, 1 << 3, 1 << 5
INVALIDATE_DATA, READ_FOLDER_PLUS, READ_FOLDER_PLUS_AUTO = 1 << 12, 1 << 13, 1 << 14
PARALLEL_FOLDERS, MOST_PAGES, KILL_PRIVILEGES = 1 << 18, 1 << 22, 1 << 28
WANTED = (
    ASYNC_READ
    | ATOMIC_TRUNCATE
    | BIG_WRITES
    | INVALIDATE_DATA
    | READ_FOLDER_PLUS
    | READ_FOLDER_PLUS_AUTO
    | PARALLEL_FOLDERS
    | MOST_PAGES
    | KILL_PRIVILEGES
)

NO_FLUSH = 1 << 5  # of an open file: no close(2) of it needs an answer

# which attributes are set
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 16, 32
BY_HANDLE, ATIME_NOW, MTIME_NOW = 64, 128, 256

FROM_CACHE = 1  # a write of a page that was changed through a mapping
DATA_ONLY = 1  # of fsync
OF_HANDLE = 1  # attributes of an open file

# flags of open(2) that are passed on
OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC

_TYPES = {each: each >> 12 for each in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)}
FOLDER_TYPE, FILE_TYPE, LINK_TYPE = (_TYPES[each] for each in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK))


def initialized(minor: int, flags: int, read_ahead: int, most: int) -> bytes:
    """Return the answer to the first request: `most` is the size of the largest write, in bytes."""
    pages = most >> 12
    return INITIALIZED.pack(
        MAJOR, min(minor, MINOR), read_ahead, flags & WANTED, 0, 0, most, 1, pages, 0, 0, 0
    )


def attributes(found: os.stat_result, uid: int, gid: int) -> bytes:
    """Return a file's attributes, with other owners."""
    atime, mtime, ctime = (
        divmod(each, 10**9) for each in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    )
    return ATTRIBUTES.pack(
        found.st_ino,
        found.st_size,
        found.st_blocks,
        *(each[0] & 0xFFFF_FFFF_FFFF_FFFF for each in (atime, mtime, ctime)),
        *(each[1] for each in (atime, mtime, ctime)),
        found.st_mode,
        min(found.st_nlink, 0xFFFF_FFFF),
        uid,
        gid,
        _device(found.st_rdev),
        found.st_blksize,
        0,
    )


def _device(number: int) -> int:
    """Return a device's number as the kernel encodes it in 32 bits (linux/kdev_t.h, new_encode_dev)."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12) & 0xFFFF_FFFF


def folder_entry(name: bytes, number: int, kind: int, following: int) -> bytes:
    """Return an entry of a folder's listing; `following` is the offset of the next."""
    return NAME.pack(number, following, len(name), kind) + name + bytes(-len(name) % 8)
