"""Maps of sparse files: which parts of a file an archive contains; the rest is zeros.

Source: GNU tar manual, "Storing Sparse Files" (old GNU format; PAX formats 0.0, 0.1 and 1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

REPEATED = frozenset({"GNU.sparse.offset", "GNU.sparse.numbytes"})  # format 0.0 has one of each for a part
SIZES = frozenset({"GNU.sparse.size", "GNU.sparse.realsize"})  # a member with one of them is sparse

Extents = tuple[tuple[int, int], ...]

_ZEROS = bytes(1 << 20)


def zeros(count: int) -> Iterator[bytes]:
    """Yield a hole of `count` bytes, in pieces."""
    while count > 0:
        yield _ZEROS[:count]
        count -= len(_ZEROS)


def old_gnu(header: bytes, more: Callable[[], bytes]) -> tuple[int, Extents]:
    """Parse the size and the map of an old GNU sparse header; `more` reads a further block of the map.

    Raises ValueError for invalid numbers.
    """
    extents = _entries(header[386:482])
    extended = header[482]
    while extended:
        block = more()
        extents += _entries(block[:504])
        extended = block[504]
    return _number(header[483:495]), tuple(extents)


def pax(records: Mapping[str, str], more: Callable[[], bytes]) -> tuple[int, Extents]:
    """Parse the size and the map of a PAX sparse file.

    The map of format 1.0 is before the data, where `more` reads its blocks. Raises ValueError for invalid
    numbers.
    """
    size = int(records.get("GNU.sparse.realsize") or records.get("GNU.sparse.size") or "")
    if records.get("GNU.sparse.major") == "1":
        return size, _map_in_data(more)
    if "GNU.sparse.map" in records:
        return size, _pairs(_numbers(records["GNU.sparse.map"]))
    offsets = _numbers(records.get("GNU.sparse.offset", ""))
    return size, tuple(zip(offsets, _numbers(records.get("GNU.sparse.numbytes", "")), strict=True))


def _map_in_data(more: Callable[[], bytes]) -> Extents:
    lines = more().split(b"\n")
    count = int(lines[0])
    while len(lines) < 2 * count + 2:  # the count, the numbers, and what follows the last newline
        rest = lines.pop()
        lines += (rest + more()).split(b"\n")
    return _pairs([int(line) for line in lines[1 : 2 * count + 1]])


def _pairs(numbers: list[int]) -> Extents:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _entries(data: bytes) -> list[tuple[int, int]]:
    entries = []
    for at in range(0, len(data), 24):
        if not data[at]:
            break  # the rest of the table is not used
        entries.append((_number(data[at : at + 12]), _number(data[at + 12 : at + 24])))
    return entries


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base-256, for what does not fit in octal digits
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)
