"""QEMU's program: where it is, and its version."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from bot_bottle.errors import AccelError
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed

_MACHINE = "x86_64"


def find_qemu(purpose: str = "a microVM", packages: str = "qemu-system-x86") -> Path:
    """Find QEMU, to emulate something.

    Raises AccelError with the packages to install when it is missing, and where it could not be used.
    """
    machine = platform.machine()
    if machine != _MACHINE:
        raise AccelError(
            f"without KVM there are no microVMs on {machine}",
            why="the way in which QEMU starts smolvm's guest kernel, and the host with KVM that it emulates"
            f" for --accel nested, exist for {_MACHINE} only",
            next_step="use a machine with KVM; or --backend docker",
        )
    found = process.find("qemu-system-x86_64")
    if found is None:
        raise AccelError(
            f"QEMU is needed to emulate {purpose}",
            next_step=f"sudo apt-get install --no-install-recommends {packages}",
        )
    return found


def qemu_version(qemu: Path) -> str:
    """Ask a QEMU for its version. Raises AccelError when it does not run."""
    try:
        found = re.search(r"version (\S+)", process.run([str(qemu), "--version"], timeout=10).text)
    except CommandFailed as error:
        raise AccelError(f"{qemu} does not run", why=error.why) from error
    return found.group(1) if found else "of an unknown version"
