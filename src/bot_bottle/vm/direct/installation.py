"""What a QEMU opens of its own installation, where that is not among the system's files.

Such as one in /opt, in a home, or of Homebrew: in the private root nothing of it exists unless it is named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import AccelError
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed
from bot_bottle.vm.direct.confinement import SYSTEM


class Installation(Struct, frozen=True):
    """A QEMU with the files and folders that it has to read, and the options by which it finds firmware."""

    program: Path
    readable: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()


def find_installation(qemu: Path) -> Installation:
    """Return what there is of a QEMU outside the system's folders. Raises AccelError."""
    program = qemu.resolve()
    if _of_system(program):
        return Installation(program)
    prefix = program.parent.parent
    firmware = [path for name in ("qemu", "seabios") if (path := prefix / "share" / name).is_dir()]
    modules = [*prefix.glob("lib*/qemu"), *prefix.glob("lib/*/qemu")]
    libraries = [path for path in _libraries(program) if not _of_system(path)]
    # it looks where it was to be installed when it was built, and may have been moved since
    options = [word for path in firmware for word in ("-L", str(path))]
    return Installation(program, (*firmware, *modules, *libraries), tuple(options))


def _of_system(path: Path) -> bool:
    return str(path).startswith(tuple(f"{folder}/" for folder in SYSTEM))


def _libraries(program: Path) -> list[Path]:
    """Return the libraries of a program, as the dynamic loader finds them. Raises AccelError."""
    env = {**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}  # it prints them, and starts nothing (ld.so(8))
    try:
        listed = process.run([str(program), "--version"], env=env, timeout=10).text
    except CommandFailed as error:
        raise AccelError(f"{program} does not run", why=error.why) from error
    return [Path(path) for path in re.findall(r"=> (/.+) \(0x", listed)]
