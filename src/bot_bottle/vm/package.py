"""The smolvm of the PyPI package `smolmachines`, prepared to run.

The package has the program under another name (`smol-vmm`), its libraries, and two compressed disk templates
of 20 and 10 GiB that are nearly empty. smolvm checks its own name by the real path, so the program is
hard-linked or copied; the templates are unpacked sparse, where smolvm would take 15 seconds without a
message.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import zstandard
from msgspec import Struct

from bot_bottle.errors import SmolvmError
from bot_bottle.host import paths
from bot_bottle.host.files import is_published, publish_dir
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.system_errors import next_step
from bot_bottle.vm.guest_rootfs import PACKAGE, installed

_LIBRARIES = ("libkrun.so", "libkrunfw.so.5")
_TEMPLATES = ("storage-template.ext4", "overlay-template.ext4")
_AGENT = "agent-rootfs.tar.zst"
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class Installation(Struct, frozen=True):
    """A folder with `smolvm`, its libraries, its unpacked templates and the guest's files."""

    folder: Path
    version: str

    @property
    def program(self) -> Path:
        """The smolvm command."""
        return self.folder / "smolvm"

    @property
    def agent_archive(self) -> Path:
        """The guest's root filesystem, as the package has it (`.tar.zst`)."""
        return self.folder / _AGENT

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that an emulated host needs besides the guest's."""
        return tuple(self.folder / name for name in ("smolvm", *_LIBRARIES, *_TEMPLATES))


def package_folder() -> tuple[Path, str] | None:
    """Return the package's folder and version, or None when it is not installed. Does not import it."""
    try:
        site, version = installed()
    except SmolvmError:
        return None
    folder = site / "smol"
    return (folder, version) if (folder / "smol-vmm").is_file() else None


def prepare_installation(progress: Progress) -> Installation:
    """Return the package's smolvm ready to run, from the cache after the first time.

    Raises SmolvmError when the package is not there or cannot be prepared.
    """
    found = package_folder()
    if found is None:
        raise SmolvmError("smolvm is not installed", next_step=f"pip install {PACKAGE}")
    source, version = found
    base = paths.cache_dir() / "smolvm"
    ready = Installation(base / version, version)
    if is_published(ready.folder, _stamp(source)):
        return ready
    try:
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        waiting = f"waiting for another bot-bottle that prepares smolvm {version}"
        with exclusive_lock(base / f"{version}.lock", lambda: progress.note(waiting)):
            if not is_published(ready.folder, _stamp(source)):
                with progress.stage("smolvm") as stage:
                    _prepare(source, ready.folder)
                    stage.conclude(f"smolvm {version} prepared")
    except OSError as error:
        raise SmolvmError(
            f"cannot prepare smolvm in {base}",
            why=str(error),
            next_step=next_step(
                error, "make it writable and free some space, or set BOT_BOTTLE_CACHE_DIR to another"
            ),
        ) from error
    return ready


def _stamp(source: Path) -> str:
    """Return what distinguishes packages of one version: the program's hash, as pip has recorded it.

    Timestamps would differ between virtual environments, which share the cache.
    """
    from importlib.metadata import files  # only here: it takes a tenth of a command's start to load

    for file in files(PACKAGE) or ():
        if file.name == "smol-vmm" and file.hash is not None:
            return file.hash.value
    status = (source / "smol-vmm").stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _prepare(source: Path, folder: Path) -> None:
    with publish_dir(folder, _stamp(source)) as partial:
        link(source / "smol-vmm", partial / "smolvm")
        for name in (*_LIBRARIES, _AGENT):
            link(source / name, partial / name)
        for name in _TEMPLATES:
            _expand_sparse(source / f"{name}.zst", partial / name)


def link(source: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy where that is not possible."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or a file of another user
        shutil.copy2(source, target)


def _expand_sparse(source: Path, target: Path) -> None:
    """Unpack a disk template, leaving holes where it is zero (a template of 20 GiB takes about 3 MB)."""
    with source.open("rb") as packed, target.open("wb") as out:
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        size = 0
        while block := reader.read(_BLOCK):
            if block == _ZEROS[: len(block)]:
                out.seek(len(block), os.SEEK_CUR)
            else:
                out.write(block)
            size += len(block)
        out.truncate(size)
    with contextlib.suppress(OSError):
        shutil.copystat(source, target)
