"""CRC-32 of a file, read by several threads, and of joined data, combined from that of its pieces.

Source: ISO/IEC 8802-3 (the polynomial), as in zlib.
"""

from __future__ import annotations

import os
from functools import partial

from isal.isal_zlib import crc32, crc32_combine

__all__ = ["crc32", "crc32_combine", "crc_of"]

_CHUNK = 1 << 20
_READERS = 4
_WORTH = 16 << 20  # bytes; below this a thread is slower


def crc_of(fd: int, size: int) -> int:
    """Return the CRC-32 of an open file's first `size` bytes, read by as many threads as there are cores.

    A shorter file has another value. Raises OSError.
    """
    count = min(os.cpu_count() or 1, _READERS, max(1, size // _WORTH))
    ends = [size * number // count for number in range(count + 1)]
    if count == 1:
        return _crc_between(fd, 0, size)
    from concurrent.futures import ThreadPoolExecutor  # only here: loading it takes as long as reading 10 MB

    with ThreadPoolExecutor(count) as pool:
        crcs = list(pool.map(partial(_crc_between, fd), ends[:-1], ends[1:]))
    crc = 0
    for one, begin, end in zip(crcs, ends[:-1], ends[1:], strict=True):
        crc = crc32_combine(crc, one, end - begin)
    return crc


def _crc_between(fd: int, begin: int, end: int) -> int:
    crc = 0
    while begin < end and (data := os.pread(fd, min(_CHUNK, end - begin), begin)):
        crc = crc32(data, crc)
        begin += len(data)
    return crc
