"""Which requests for files of a registry are answered by the cache, and which responses are stored in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Fields = Iterable[tuple[bytes, bytes]]  # of a head

# what makes a response one for this client, or only a part of the file
_OF_A_CLIENT = frozenset(
    b"authorization cookie range if-match if-none-match if-modified-since if-unmodified-since if-range"
    b" transfer-encoding upgrade expect".split()
)
_FRESH = frozenset((b"no-cache", b"no-store", b"max-age=0"))
_PRIVATE = frozenset((b"no-cache", b"no-store", b"private"))
_STORED = ("content-type", "etag", "last-modified")


def is_plain_get(method: str, fields: Fields) -> bool:
    """Return whether a request is for a whole file, and for anybody: without credentials or conditions."""
    found = _joined(fields)
    empty = found.get(b"content-length", b"0") == b"0"
    return method == "GET" and empty and not _OF_A_CLIENT & found.keys()


def wants_fresh(fields: Fields) -> bool:
    """Return whether a client does not take a stored response (RFC 9111, 5.2.1)."""
    found = _joined(fields)
    said = _words(found.get(b"cache-control", b"")) | _words(found.get(b"pragma", b""))
    return bool(_FRESH & said)


def may_be_stored(status: int, fields: Fields) -> bool:
    """Return whether a response may be stored for others (RFC 9111, 3): a whole file of a given length.

    One that sets a cookie may be for one client; where it says that it is public the cookie is not stored.
    """
    found = _joined(fields)
    said = _words(found.get(b"cache-control", b""))
    if status != 200 or not found.get(b"content-length", b"").isdigit() or _PRIVATE & said:
        return False
    if b"set-cookie" in found and b"public" not in said:
        return False
    encoded = _words(found.get(b"content-encoding", b"")) - {b"identity"}
    return not encoded and not _words(found.get(b"vary", b"")) - {b"accept-encoding"}


def stored_headers(fields: Fields) -> Mapping[str, str]:
    """Return the headers of a response that are stored with its body."""
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in _joined(fields).items()}
    return {name: found[name] for name in _STORED if name in found}


def _joined(fields: Fields) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        key = name.lower()
        found[key] = b", ".join((found[key], value)) if key in found else value
    return found


def _words(value: bytes) -> set[bytes]:
    """Return the items of a list, in lower case, with spaces left out."""
    words = {b"".join(word.split()).lower() for word in value.split(b",")} - {b""}
    return words | {word.partition(b"=")[0] for word in words if word.startswith((b"private", b"no-cache"))}
