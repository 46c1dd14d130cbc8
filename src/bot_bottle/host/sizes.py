"""Sizes in bytes: as people write them, and how much memory is free.

docker has two habits, and so has bottle: what is set aside for a machine or an image (`--memory`) counts in
units of 1024, what lies on a disk is shown and written in units of 1000.
"""

from __future__ import annotations

import re
from pathlib import Path

from bot_bottle.errors import UsageError

_MEMORY_SIZE = re.compile(r"(\d{1,18})(b|k|m|g)?", re.IGNORECASE)
_DISK_SIZE = re.compile(r"(\d{1,18})\s*([kmgt]?)b?", re.IGNORECASE)


def parse_memory_size(text: str) -> int | None:
    """Return the bytes of a size like `512m` or `2g`, in units of 1024; None for anything else."""
    found = _MEMORY_SIZE.fullmatch(text.strip())
    return int(found[1]) * 1024 ** "bkmg".index((found[2] or "b").lower()) if found else None


def parse_disk_size(text: str) -> int | None:
    """Return the bytes of a size like `500MB` or `20GB`, in units of 1000; None for anything else."""
    found = _DISK_SIZE.fullmatch(text.strip())
    return int(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ") if found else None


def require_disk_size(text: str) -> int:
    """Return the bytes that `parse_disk_size` does. Raises UsageError for anything else."""
    if (size := parse_disk_size(text)) is None:
        raise UsageError(f"invalid size: {text[:50]!r}", next_step="write it as 500MB or 20GB")
    return size


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes of memory that programs can still get (proc(5), MemAvailable); None if not known."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) << 10 if found else None
