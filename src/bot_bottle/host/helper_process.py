"""Helpers of a bottle are processes of their own, and end with it, even after a SIGKILL.

One is a module with a `main`, started as `python -m bot_bottle.host.helper_process MODULE ARGUMENTS...`: it
is bound to its parent before the module is loaded, which may take a while.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

PARENT = "BOT_BOTTLE_PARENT"  # a helper's variable: with whom it ends


def _end_with_parent() -> None:
    """Have the kernel end us with whoever started us, however that ends (prctl(2); linux only)."""
    parent = int(os.environ.pop(PARENT))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("bottle has ended")


def helper(module: str, *arguments: object) -> list[str]:
    """Give the command line of a helper."""
    return [sys.executable, "-m", "bot_bottle.host.helper_process", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Give a helper's environment: ours, without a proxy that would be its own."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**env, PARENT: str(os.getpid())}


if __name__ == "__main__":
    _end_with_parent()
    importlib.import_module(sys.argv.pop(1)).main()
