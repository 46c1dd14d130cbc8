"""The kit that probes are run with: busybox and its loader, out of smolvm's guest system.

It is made once for each version of smolvm, and shown to a bottle as probes.KIT, read-only.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

import zstandard

from bot_bottle.errors import SmolvmError
from bot_bottle.locks import locked
from bot_bottle.progress import Progress
from bot_bottle.vm.install import Installation, prepare_installation

# in the guest system, and in the kit
_FILES = (
    (re.compile(r"(\./)?lib/ld-musl-[a-z0-9_]+\.so\.1"), "ld.so"),
    (re.compile(r"(\./)?bin/busybox"), "busybox"),
)


def kit(progress: Progress) -> Path:
    """Give the kit's folder, made if it is not there; anybody may read it. Raises SmolvmError."""
    installed = prepare_installation(progress)
    folder = installed.folder.with_name(installed.folder.name + "-kit")
    try:
        with locked(folder.with_suffix(".lock"), lambda: None):
            stamp = (installed.folder / "stamp").read_text()
            if not _is_whole(folder, stamp):
                _make(folder, installed, stamp)
    except (OSError, tarfile.TarError, zstandard.ZstdError) as error:
        raise SmolvmError(
            "the kit that proves a bottle's walls cannot be made",
            why=str(error),
            next_step=f"make {folder.parent} writable; or pip install --force-reinstall smolmachines",
        ) from error
    return folder


def _is_whole(folder: Path, stamp: str) -> bool:
    try:
        return (folder / "stamp").read_text() == stamp
    except OSError:
        return False


def _make(folder: Path, installed: Installation, stamp: str) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o755)
    partial.chmod(0o755)
    with installed.agent_archive.open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                for pattern, name in _FILES:
                    if pattern.fullmatch(member.name) and (source := tar.extractfile(member)) is not None:
                        with (partial / name).open("wb") as file:
                            shutil.copyfileobj(source, file)
                        (partial / name).chmod(0o755)
    missing = [name for _, name in _FILES if not (partial / name).is_file()]
    if missing:
        raise OSError(f"{installed.agent_archive} holds no {' and no '.join(missing)}")
    (partial / "stamp").write_text(stamp)
    os.sync()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
