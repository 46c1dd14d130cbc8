"""A secret that is only there to be searched for."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 8 << 20
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
