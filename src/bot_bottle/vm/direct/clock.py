"""The rate of this processor's time-stamp counter, which an emulated guest sees as its own.

A kernel that does not know it falls back to a clock of 4 ms. Source: Intel SDM, volume 2, RDTSC.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SHORTEST = 0.02  # seconds; the error is then below 100 ppm
_TRIES = 20


class TickRate:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._read = _reader()
        self._start = self._pair()

    def khz(self) -> int | None:
        """Return the rate in kHz, after 20 ms at least; None where it cannot be measured."""
        if self._start is None:
            return None
        time.sleep(max(0.0, _SHORTEST - (time.monotonic_ns() - self._start[0]) / 1e9))
        end = self._pair()
        return round((end[1] - self._start[1]) * 1e6 / (end[0] - self._start[0])) if end else None

    def _pair(self) -> tuple[int, int] | None:
        """Return a time in nanoseconds and the counter at that time, from the quickest of some readings."""
        if self._read is None:
            return None
        found = []
        for _ in range(_TRIES):
            before, ticks, after = time.monotonic_ns(), self._read(), time.monotonic_ns()
            found.append((after - before, (before + after) // 2, ticks))
        _, when, ticks = min(found)
        return when, ticks


class _Reader:
    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_CODE)
        self._function = ctypes.CFUNCTYPE(ctypes.c_uint64)(
            ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        )

    def __call__(self) -> int:
        return int(self._function())


def _reader() -> _Reader | None:
    if platform.machine() != "x86_64":
        return None
    try:
        return _Reader()
    except OSError:  # memory that is writable and executable is not allowed here
        return None
