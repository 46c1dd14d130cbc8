"""A secret that is only there to be searched for."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CHUNK = 8 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 8  # bytes of a page in proc_pid_pagemap(5); all zero for one that was never used
_SPECIAL = (
    '"',
    "'",
    "\\",
    "$HOME",
    "`",
    "\n",
    "é",
    " ",
)  # what shells and JSON trip over


@dataclass(frozen=True)
class Canary:
    """A value in a file. Its first part, `value`, is what is searched for: no quoting changes it."""

    path: Path
    value: bytes
    sha256: bytes

    @classmethod
    def made(cls, path: Path) -> Canary:
        """Make one in a file."""
        value = f"canary{secrets.token_hex(12)}"
        whole = value + "".join(f"{part}{value}" for part in _SPECIAL)
        path.write_text(f"{whole}\n")
        return cls(path, value.encode(), hashlib.sha256(whole.encode()).hexdigest().encode())

    def places(self, *folders: Path) -> list[str]:
        """Give the files in these folders that hold it, but for its own. Older ones cannot."""
        born = self.path.stat().st_mtime
        files = (
            Path(top) / name for folder in folders for top, _, names in os.walk(folder) for name in names
        )
        return [str(path) for path in files if path != self.path and _holds(path, self.value, born)]


def _holds(path: Path, value: bytes, born: float) -> bool:
    tail = b""
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or max(facts.st_mtime, facts.st_ctime) < born:
            return False
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                if value in tail + data:
                    return True
                tail = data[-len(value) :]
    return False


def holders(value: bytes) -> list[str]:
    """Give the processes of this machine whose command line or environment holds a value."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                if value in (process / name).read_bytes():
                    found.append(f"{process / name}: {(process / 'comm').read_text().strip()}")
    return found


def relatives(pid: int) -> list[int]:
    """Give the processes in the mount namespace of a process: those of its container."""
    place = Path(f"/proc/{pid}/ns/mnt").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns/mnt").readlink() == place:
                found.append(int(process.name))
    return found


def remembers(pid: int, value: bytes) -> bool:
    """Search the memory of a process for a value."""
    with (
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pages,
    ):
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if found and "[v" not in line:
                first, last = (int(each, 16) for each in found.groups())
                if _area_holds(memory, pages, first, last, value):
                    return True
    return False


def _area_holds(memory: BinaryIO, pages: BinaryIO, first: int, last: int, value: bytes) -> bool:
    tail = b""
    for begin in range(first, last, _CHUNK):
        size = min(_CHUNK, last - begin)
        used = os.pread(pages.fileno(), size // _PAGE * _PRESENT, begin // _PAGE * _PRESENT)
        data = b""
        if any(used):
            with suppress(OSError):  # as of a file that has become shorter
                data = os.pread(memory.fileno(), size, begin)
        if value in tail + data:
            return True
        tail = data[-len(value) :]
    return False
