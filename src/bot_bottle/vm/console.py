"""What a machine of QEMU left on its console and in QEMU's log."""

from __future__ import annotations

import re
from pathlib import Path

from bot_bottle.host.process import Child

NAME = "console.log"
QEMU_LOG = "qemu.log"

_PANIC = re.compile(r"Kernel panic - not syncing: *([^\r\n]+)")  # Linux, kernel/panic.c
_TAIL = 1500  # characters


def kernel_panic(folder: Path) -> str:
    """Return the reason of a kernel panic on the console, "" if there is none."""
    found = _PANIC.search(_text(folder / NAME))
    return found[1].strip() if found else ""


def last_output(folder: Path, child: Child, patience: float = 5) -> str:
    """Return how QEMU ended, and the end of its output and of the console.

    If it is about to end, `patience` is for how many seconds that is waited for.
    """
    child.wait(patience)
    state = [] if child.code is None else [f"QEMU ended with status {child.code}"]
    output = [_text(folder / name)[-_TAIL:].strip() for name in (QEMU_LOG, NAME)]
    return "\n".join([*state, *filter(None, output)])


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except FileNotFoundError:  # not made yet; or removed since, for a thread that outlives its bottle
        return ""
