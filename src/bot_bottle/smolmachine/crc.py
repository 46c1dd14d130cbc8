"""The CRC-32 of bytes that are joined, from the CRC-32s of the pieces: made of pieces on several cores.

A CRC is linear over GF(2): appending zeros to a message multiplies its remainder by a matrix, and what was to
be in the zeros' place is added by exclusive or. The matrices for 1, 2, 4, 8 ... bytes are made once.

Sources: ISO/IEC 8802-3 (the polynomial); zlib's manual, crc32_combine.
"""

from __future__ import annotations

import os
import zlib
from functools import cache, partial

_POLYNOMIAL = 0xEDB88320  # its bits in reverse, as they are sent

_CHUNK = 1 << 20
_READERS = 4
_WORTH = 16 << 20  # bytes that are worth a thread

_Matrix = tuple[int, ...]  # 32 columns, of 32 bits each


def crc_of(fd: int, size: int) -> int:
    """Give the CRC-32 of an open file's first `size` bytes, read by as many threads as there are cores.

    A file that is shorter has another one. Raises OSError.
    """
    count = min(os.cpu_count() or 1, _READERS, max(1, size // _WORTH))
    ends = [size * number // count for number in range(count + 1)]
    if count == 1:
        return _crc_between(fd, 0, size)
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes as long to load as 10 MB to read

    with ThreadPoolExecutor(count) as pool:
        crcs = list(pool.map(partial(_crc_between, fd), ends[:-1], ends[1:]))
    crc = 0
    for one, begin, end in zip(crcs, ends[:-1], ends[1:], strict=True):
        crc = combine(crc, one, end - begin)
    return crc


def _crc_between(fd: int, begin: int, end: int) -> int:
    crc = 0
    while begin < end and (data := os.pread(fd, min(_CHUNK, end - begin), begin)):
        crc = zlib.crc32(data, crc)
        begin += len(data)
    return crc


def combine(first: int, second: int, size: int) -> int:
    """Give the CRC-32 of two pieces joined, of the CRC-32 of each; the second one has `size` bytes."""
    power = 0
    while size:
        if size & 1:
            first = _times(_zeros(power), first)
        size >>= 1
        power += 1
    return first ^ second


@cache
def _zeros(power: int) -> _Matrix:
    """Give what 2**power bytes of zeros do to a CRC; power -3 is a single bit."""
    if power == -3:
        return (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    half = _zeros(power - 1)
    return tuple(_times(half, column) for column in half)


def _times(matrix: _Matrix, vector: int) -> int:
    product = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
