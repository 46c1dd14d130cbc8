"""The CRC-32 of bytes that are joined, from the CRC-32s of the pieces: nothing is read again.

A CRC is linear over GF(2): appending zeros to a message multiplies its remainder by a matrix, and what was to
be in the zeros' place is added by exclusive or. The matrices for 1, 2, 4, 8 ... bytes are made once.

Sources: ISO/IEC 8802-3 (the polynomial); zlib's manual, crc32_combine.
"""

from __future__ import annotations

from functools import cache

_POLYNOMIAL = 0xEDB88320  # its bits in reverse, as they are sent

_Matrix = tuple[int, ...]  # 32 columns, of 32 bits each


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
