"""The extended attributes of files. The guest has those of users; others mean something to this machine."""

from __future__ import annotations

import errno
import os
import stat

from bot_bottle.vm.direct.virtiofs import protocol
from bot_bottle.vm.direct.virtiofs.nodes import Nodes, name_in

_OF_USERS = b"user."


def value(nodes: Nodes, number: int, body: bytes) -> bytes:
    """Return an attribute. Raises OSError."""
    size, _ = protocol.GET_XATTR.unpack_from(body)
    name = _checked(name_in(body, protocol.GET_XATTR.size))
    return _sized(os.getxattr(_path(nodes, number), name), size)


def names(nodes: Nodes, number: int, body: bytes) -> bytes:
    """Return the names of the attributes. Raises OSError."""
    size, _ = protocol.GET_XATTR.unpack_from(body)
    if nodes.get(number).kind == stat.S_IFLNK:  # has none of users
        return _sized(b"", size)
    found = [os.fsencode(name) for name in os.listxattr(_path(nodes, number))]
    return _sized(b"".join(name + b"\0" for name in found if name.startswith(_OF_USERS)), size)


def set_value(nodes: Nodes, number: int, body: bytes) -> bytes:
    """Set an attribute. Raises OSError."""
    size, flags = protocol.SET_XATTR.unpack_from(body)
    name = _checked(name_in(body, protocol.SET_XATTR.size))
    start = protocol.SET_XATTR.size + len(name) + 1
    os.setxattr(_path(nodes, number), name, body[start : start + size], flags)
    return b""


def remove(nodes: Nodes, number: int, body: bytes) -> bytes:
    """Remove an attribute. Raises OSError."""
    os.removexattr(_path(nodes, number), _checked(name_in(body, 0)))
    return b""


def _checked(name: bytes) -> bytes:
    if not name.startswith(_OF_USERS):
        raise OSError(errno.EOPNOTSUPP, "only attributes of users")
    return name


def _path(nodes: Nodes, number: int) -> str:
    node = nodes.get(number)
    if node.kind == stat.S_IFLNK:
        raise OSError(errno.EOPNOTSUPP, "a symbolic link has none")
    return str(nodes.descriptor(node))


def _sized(data: bytes, size: int) -> bytes:
    """Return data, or its length where that was asked for."""
    if not size:
        return protocol.GET_XATTR.pack(len(data), 0)
    if len(data) > size:
        raise OSError(errno.ERANGE, "too long")
    return data
