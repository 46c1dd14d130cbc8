"""The errors of an emulated host that did not come up or ended, from what it left on its console."""

from __future__ import annotations

from pathlib import Path

from bot_bottle.errors import BootError
from bot_bottle.host.process import Child
from bot_bottle.vm.console import kernel_panic, last_output


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
