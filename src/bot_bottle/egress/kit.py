"""A shell and its tools for inside a bottle, whatever its image holds: the busybox of smolvm's guest.

It is linked to its own loader and C library in one file (musl), so the two run in any root filesystem.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

import zstandard

from bot_bottle import paths
from bot_bottle.errors import CacheError, SmolvmError
from bot_bottle.interrupts import shield
from bot_bottle.progress import Progress
from bot_bottle.vm.install import Installation, prepare_installation

PLACE = "/.bottle"  # where a bottle sees it
BUSYBOX = f"{PLACE}/loader {PLACE}/busybox"

_NAMES = {"bin/busybox": "busybox"}
_LOADER = ("lib", "ld-musl-")
_LARGEST = 16 << 20  # bytes of either


def kit(progress: Progress) -> Path:
    """Give the folder with `busybox` and `loader`, made the first time. Raises SmolvmError, CacheError."""
    installed = prepare_installation(progress)
    folder = paths.cache_dir() / "smolvm" / f"{installed.version}-kit"
    if not folder.is_dir():
        try:
            _make(installed, folder)
        except OSError as error:
            raise CacheError(
                f"cannot make {folder}", why=str(error), next_step="make it writable and free some space"
            ) from error
    return folder


def _make(installed: Installation, folder: Path) -> None:
    """Take the files out of the guest's archive. Several may do so at once: the first one's are kept."""
    with shield():
        partial = Path(mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            _unpack(installed, partial)
            partial.chmod(0o755)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _unpack(installed: Installation, folder: Path) -> None:
    wanted = {"busybox", "loader"}
    try:
        with (
            installed.agent_archive.open("rb") as packed,
            zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader,
            tarfile.open(fileobj=reader, mode="r|") as tar,
        ):
            for member in tar:
                name = _name(member.name)
                file = tar.extractfile(member) if name in wanted and member.isreg() else None
                if file is not None and member.size <= _LARGEST:
                    _write(folder / name, file.read())
                    wanted.discard(name)
                if not wanted:
                    return
    except (tarfile.TarError, zstandard.ZstdError) as error:
        raise SmolvmError("smolvm's guest files are damaged", why=str(error)) from error
    raise SmolvmError(f"smolvm's guest files have no {' and no '.join(sorted(wanted))}")


def _name(member: str) -> str:
    path = PurePosixPath(member)
    if path.parent.name == _LOADER[0] and path.name.startswith(_LOADER[1]):
        return "loader"
    return _NAMES.get(str(path), "")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o755)
