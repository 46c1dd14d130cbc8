"""The tools with which the probes run: busybox and its loader, from smolvm's guest system.

They are unpacked once for each version of smolvm, and mounted read-only in a bottle at probes.TOOLKIT.
"""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import zstandard

from bot_bottle.errors import SmolvmError
from bot_bottle.host import paths
from bot_bottle.host.files import is_published, publish_dir
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.vm.guest_rootfs import Guest, find_guest

# names in the guest system, and here
_FILES = (
    (re.compile(r"(\./)?lib/ld-musl-[a-z0-9_]+\.so\.1"), "ld.so"),
    (re.compile(r"(\./)?bin/busybox"), "busybox"),
)


def prepare_toolkit(progress: Progress) -> Path:
    """Return the folder of the tools, readable by all users; unpack them if needed. Raises SmolvmError."""
    guest = find_guest()
    folder = paths.cache_dir() / "smolvm" / f"{guest.version}-tools"
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        waiting = "waiting for another bot-bottle that prepares the network probes"
        with exclusive_lock(folder.with_name(f"{folder.name}.lock"), lambda: progress.note(waiting)):
            stamp = str(guest.path.stat().st_size)
            if not is_published(folder, stamp):
                with publish_dir(folder, stamp) as partial:
                    _fill(partial, guest)
    except (OSError, tarfile.TarError, zstandard.ZstdError) as error:
        raise SmolvmError(
            "cannot prepare the network probes",
            why=str(error),
            next_step=f"make {folder.parent} writable; or pip install --force-reinstall smolmachines",
        ) from error
    return folder


def _fill(folder: Path, guest: Guest) -> None:
    with guest.path.open("rb") as packed:
        stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                names = [name for pattern, name in _FILES if pattern.fullmatch(member.name)]
                source = tar.extractfile(member) if names and member.isreg() else None
                if source is not None:
                    (folder / names[0]).write_bytes(source.read())
                    (folder / names[0]).chmod(0o755)
    if missing := [name for _, name in _FILES if not (folder / name).is_file()]:
        raise OSError(f"{guest.path} does not contain {' and '.join(missing)}")
