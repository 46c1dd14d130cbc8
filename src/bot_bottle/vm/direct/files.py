"""The files that every guest is made of, in the cache: its kernel and its system image."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.vm.direct import guest
from bot_bottle.vm.guest_rootfs import find_guest

_FORMAT = "1"  # raise it when one of these files is made in another way


def prepare_files(progress: Progress) -> tuple[Path, Path]:
    """Return the kernel and the system image, made if they are not in the cache.

    Raises AccelError, SmolvmError.
    """
    source = find_guest()
    folder = paths.emulation_dir() / "direct"
    kernel = folder / f"kernel-{source.version}-{_FORMAT}"
    system = folder / f"system-{source.version}-{_FORMAT}-{_scripts_digest()}.erofs"
    if kernel.is_file() and system.is_file():
        return kernel, system
    from bot_bottle.vm.preparation import prepared_folder  # only here: most commands find both files

    waiting = "waiting for another bot-bottle that prepares the microVM"
    with prepared_folder(folder, "the microVM", waiting, 0o755, progress):
        _make(source.path.parent, kernel, system, progress)
    return kernel, system


def _make(package: Path, kernel: Path, system: Path, progress: Progress) -> None:
    from bot_bottle.vm.direct.kernel import LIBRARY, write_kernel
    from bot_bottle.vm.direct.system import write_system

    with progress.stage("system") as stage:
        if not kernel.is_file():
            write_kernel(package / LIBRARY, kernel)
            kernel.chmod(0o644)  # QEMU opens it as another user
        if not system.is_file():
            write_system(find_guest(), system)
        stage.conclude("the microVM's kernel and guest system")


def _scripts_digest() -> str:
    """Return what distinguishes system images of one version: our own files in them."""
    folder = Path(os.fspath(guest.__file__)).parent
    texts = (path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]
