"""ClientHellos made by hand."""

from __future__ import annotations

SERVER_NAME, ALPN, ECH = 0, 16, 0xFE0D


def vector(size: int, data: bytes) -> bytes:
    """Return data with its length before it, a number of so many bytes."""
    return len(data).to_bytes(size, "big") + data


def server_name(name: str) -> bytes:
    """Return the value of a server_name extension."""
    return vector(2, b"\0" + vector(2, name.encode()))


def extension(kind: int, value: bytes) -> bytes:
    """Return an extension."""
    return kind.to_bytes(2, "big") + vector(2, value)


def message(*extensions: bytes) -> bytes:
    """Return the handshake message of a ClientHello with these extensions."""
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    return b"\x01" + vector(3, body + vector(2, b"".join(extensions)))


def records(handshake: bytes, size: int = 1 << 14) -> bytes:
    """Return the TLS records of a handshake message, each with so many bytes of it at most."""
    parts = [handshake[start : start + size] for start in range(0, len(handshake), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, part) for part in parts)


def hello(name: str, *more: bytes, size: int = 1 << 14) -> bytes:
    """Return the records of a ClientHello for a server name."""
    return records(message(extension(SERVER_NAME, server_name(name)), *more), size)
