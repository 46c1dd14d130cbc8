"""Where the private engines are kept, and what several modules do with files there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
RUN = Path("/run")
TEMPORARY = Path("/var/tmp")  # noqa: S108 - root makes a folder of its own there, or fails


def mark(name: str) -> str:
    """Return eight digits that stand for an engine of this checkout."""
    return hashlib.sha256(f"{CHECKOUT}{name and '/'}{name}".encode()).hexdigest()[:8]


def run_folder(name: str) -> Path:
    """Return the folder of an engine's sockets. It is short: a socket's path has 107 bytes at most."""
    return RUN / f"bot-bottle-{mark(name)}"


def temporary_folder(name: str) -> Path:
    """Return the folder of an engine's temporary files, which may be large. BuildKit makes sockets there."""
    return TEMPORARY / f"bot-bottle-{mark(name)}"


def find(program: str) -> str | None:
    """Find a program on PATH, and where root's programs are."""
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a small file, whole or not at all, unless it says that already."""
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.chmod(mode)
    part.rename(path)


def lock(path: Path, how: int) -> int:
    """Take a lock file and return its descriptor, which holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone."""
    descriptor = lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def remove(place: Path) -> None:
    """Remove a folder, and first the mounts in it, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    for mount in sorted((point for point in points if point.startswith(f"{place}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(place, ignore_errors=True)
