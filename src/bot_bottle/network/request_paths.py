"""Paths of requests, and the patterns that rules have for them.

Servers differ in how they read a path: when they decode it and how often, whether they merge slashes, take a
backslash for one, or ignore the parameters of a segment (RFC 3986, sections 3.3 and 6.2.2). Only a dot
segment can lead from below a prefix to elsewhere, so a path that has one in any of these readings is invalid;
clients resolve dot segments themselves (RFC 3986, section 5.2.4).
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_to_bytes

from bot_bottle.host.text import is_printable

_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_INVALID = re.compile(r"%(?![0-9A-Fa-f]{2})|#")
_SLASHES = re.compile(r"%(2f|5c)", re.IGNORECASE)
_SPECIAL = re.compile(r"[%\\#]|/\s*\.|[^\x21-\x7e]")
_DOTS = re.compile(r"[/\\]\s*\.{1,2}\s*(?:[/\\;?#]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AMBIGUOUS = re.compile(r"[%\\;?#]|//")
_DEEPEST = 4  # times that a path may be encoded


def canonical_path(target: str) -> str:
    """Return the path of a request's target, decoded once and without its query.

    An encoded slash or backslash stays encoded. Raises ValueError for a path that is not valid (RFC 3986,
    section 3.3), that is encoded many times, or that may have dot segments.
    """
    path = target.partition("?")[0]
    if not path.startswith("/"):
        raise ValueError("its path does not begin with /")
    if not _SPECIAL.search(path):
        return path
    if _INVALID.search(path):
        raise ValueError("its path is not validly encoded")
    _check_dots(path)
    return _decoded(_SLASHES.sub(r"%25\1", path))


def _check_dots(path: str) -> None:
    """Raise ValueError for a path with dot segments, at whatever depth they are encoded."""
    for _ in range(_DEEPEST + 1):
        if _DOTS.search(path) or _DOTS.search(unicodedata.normalize("NFKC", path)):
            raise ValueError("its path has dot segments")
        if not _ENCODED.search(path):
            return
        path = _decoded(path)
    raise ValueError(f"its path is encoded more than {_DEEPEST} times")


def _decoded(text: str) -> str:
    try:
        decoded = unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise ValueError("its path is not UTF-8") from None
    if _CONTROL.search(decoded):
        raise ValueError("its path has control characters")
    return decoded


def parse_pattern(text: str) -> str:
    """Return the pattern of a rule, decoded. Raises ValueError.

    `*` at its end matches any rest, and a whole segment `*` before it matches one segment.
    """
    if "?" in text:
        raise ValueError("the query of a request cannot be part of a rule")
    start = canonical_path(text.removesuffix("*"))
    if _AMBIGUOUS.search(start):
        raise ValueError("servers differ in how they read this path")
    if not is_printable(start):
        raise ValueError("a path has only printable characters")
    pattern = f"{start}*" if text.endswith("*") else start
    segments = pattern.split("/")
    if any("*" in segment for segment in segments[:-1] if segment != "*") or "*" in segments[-1][:-1]:
        raise ValueError("`*` is only allowed at the end of a path, or as a whole segment")
    if "*" in segments[:-1] and "*" in segments[-1] != "*":
        raise ValueError("after a segment `*`, the end is a whole segment too")
    return pattern


def is_plain(segment: str) -> bool:
    """Return whether all servers read a segment of a canonical path alike.

    Some normalize it (NFKC, Unicode Standard Annex 15), which makes slashes of other characters.
    """
    compatible = unicodedata.normalize("NFKC", segment)
    return bool(segment) and "/" not in compatible and not _AMBIGUOUS.search(compatible)
