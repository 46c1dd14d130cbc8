"""The ClientHello, with which a client begins TLS (RFC 8446, 4.1.2), as far as a proxy has to know it.

It is what a bottle sends: nothing in it is trusted, and one that is not exactly as specified is an error. A
server that is more lenient could otherwise read another name in it than we do.
"""

from __future__ import annotations

from msgspec import Struct

from bot_bottle.host.text import is_printable

LARGEST = 64 << 10  # bytes; usual ones have some hundred to two thousand

_HANDSHAKE = 22  # a record's type (RFC 8446, 5.1)
_CLIENT_HELLO = 1  # a handshake message's type (4)
_RECORD = 5  # bytes of a record's header
_LARGEST_RECORD = 1 << 14

# extensions (IANA, TLS ExtensionType Values)
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D


class ClientHello(Struct, frozen=True):
    """What a client asks for. `server_name` is "" if it names none.

    `encrypted` is whether it may contain an encrypted ClientHello (ECH), of which it is the outer part.
    """

    server_name: str = ""
    protocols: tuple[bytes, ...] = ()
    encrypted: bool = False


def is_tls(data: bytes) -> bool:
    """Return whether a connection's first bytes are the header of a TLS record with a handshake."""
    return data[:2] == b"\x16\x03"


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Parse the first bytes of a connection; None if more of them are needed. Raises ValueError."""
    message = _message(data)
    if message is None:
        return None
    hello = _Reader(message)
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if hello.ended():
        return ClientHello()  # there are no extensions before TLS 1.2
    extensions = _Reader(hello.vector(2))
    if not hello.ended():
        raise ValueError("bytes follow the extensions of the ClientHello")
    found: dict[int, bytes] = {}
    while not extensions.ended():
        kind, value = extensions.number(2), extensions.vector(2)
        if kind in found:
            raise ValueError("an extension is in the ClientHello twice")
        found[kind] = value
    return ClientHello(
        _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else "",
        _protocols(found[_ALPN]) if _ALPN in found else (),
        _ECH in found,
    )


def _message(data: bytes) -> bytes | None:
    """Return the body of the handshake message in one or more records; None while it is not complete."""
    message, place = bytearray(), 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        header = data[place : place + _RECORD]
        length = int.from_bytes(header[3:], "big")
        if (header[:1] and header[0] != _HANDSHAKE) or (header[1:2] and header[1] != 3):
            raise ValueError("the ClientHello is interrupted by another record")
        if len(header) == _RECORD and not 0 < length <= _LARGEST_RECORD:
            raise ValueError("a TLS record has an invalid length")
        body = data[place + _RECORD : place + _RECORD + length]
        if message[:1] + body[:1] and (message[:1] + body[:1])[0] != _CLIENT_HELLO:
            raise ValueError("TLS begins with another message than ClientHello")
        if len(header) < _RECORD or len(body) < length:
            if len(data) > LARGEST:
                raise ValueError("the ClientHello is too large")
            return None
        message += body
        place += _RECORD + length
        if len(message) >= 4 and int.from_bytes(message[1:4], "big") > LARGEST:
            raise ValueError("the ClientHello is too large")
    if len(message) > 4 + int.from_bytes(message[1:4], "big"):
        raise ValueError("another message follows the ClientHello in its record")
    return bytes(message[4:])


def _server_name(value: bytes) -> str:
    """Return the one host name of a server_name extension (RFC 6066, 3)."""
    outer = _Reader(value)
    names = _Reader(outer.vector(2))
    if not outer.ended() or names.ended():
        raise ValueError("the list of server names is invalid")
    kind, name = names.number(1), names.vector(2)
    if kind != 0 or not names.ended():
        raise ValueError("there is more than one server name, or it is not a host name")
    text = name.decode("ascii")
    if not text or not is_printable(text) or " " in text:
        raise ValueError("the server name is not a host name")
    return text


def _protocols(value: bytes) -> tuple[bytes, ...]:
    """Return the protocols of an ALPN extension (RFC 7301, 3.1)."""
    outer = _Reader(value)
    names, found = _Reader(outer.vector(2)), []
    while not names.ended():
        found.append(names.vector(1))
    if not outer.ended() or not found or not all(found):
        raise ValueError("the list of protocols is invalid")
    return tuple(found)


class _Reader:
    """Reads numbers and vectors (RFC 8446, 3.4). Raises ValueError where bytes are missing."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def ended(self) -> bool:
        return self._place == len(self._data)

    def take(self, size: int) -> bytes:
        found = self._data[self._place : self._place + size]
        if len(found) < size:
            raise ValueError("the ClientHello is cut off")
        self._place += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Return the bytes of a vector, whose length is a number of so many bytes."""
        return self.take(self.number(size))
