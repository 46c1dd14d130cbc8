"""What an emulated host left on its console, and what follows from it when it failed."""

from __future__ import annotations

import re
from pathlib import Path

from bot_bottle.errors import BootError
from bot_bottle.host.process import Child

NAME = "console.log"
QEMU_LOG = "qemu.log"

_PANIC = re.compile(r"Kernel panic - not syncing: *([^\r\n]+)")  # Linux, kernel/panic.c
_TAIL = 1500  # characters


def kernel_panic(folder: Path) -> str:
    """Return the reason of a kernel panic on the console, "" if there is none."""
    found = _PANIC.search(_text(folder / NAME))
    return found[1].strip() if found else ""


def last_output(folder: Path, child: Child) -> str:
    """Return how QEMU ended, and the end of its output and of the console. It may be about to end."""
    child.wait(5)
    state = [] if child.code is None else [f"QEMU ended with status {child.code}"]
    output = [_text(folder / name)[-_TAIL:].strip() for name in (QEMU_LOG, NAME)]
    return "\n".join([*state, *filter(None, output)])


def boot_error(folder: Path, child: Child, limit: float, made_in: Path) -> BootError:
    """Return the error of a host that did not come up within `limit` seconds, of files from `made_in`."""
    output = last_output(folder, child)
    if reason := kernel_panic(folder):
        return BootError(
            f"the kernel of the emulated host panicked: {reason}",
            why=output,
            next_step="try again while less runs on this machine; if it panics again, delete "
            f"{made_in}, which is made anew",
        )
    late = f"not ready within {limit:g} s\n" if child.code is None else ""
    memory = "check free memory with `bottle doctor`, then try again"
    return BootError(
        "the emulated host did not come up",
        why=f"{late}{output}",
        next_step="try again while less runs on this machine" if late else memory,
    )


def ended_error(folder: Path, child: Child) -> BootError:
    """Return the error of a host that ended while a command ran in it."""
    output = last_output(folder, child)
    if reason := kernel_panic(folder):
        message = f"the kernel of the emulated host panicked while a command ran in it: {reason}"
        return BootError(message, why=output, next_step="try again while less runs on this machine")
    return BootError("the emulated host ended while a command ran in it", why=output, next_step="try again")


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.is_file() else ""
