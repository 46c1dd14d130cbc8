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

PARENT = "BOT_BOTTLE_PARENT"  # a helper's variable: the pid of the process that it ends with


def _end_with_parent() -> None:
    """Make the kernel kill us when our parent ends, however it ends (prctl(2); Linux only)."""
    parent = int(os.environ.pop(PARENT))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("bottle has ended")


def helper(module: str, *arguments: object) -> list[str]:
    """Return the command line of a helper."""
    return [sys.executable, "-m", "bot_bottle.host.helper_process", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return a helper's environment: ours, without proxy variables, which would apply to the helper."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**env, PARENT: str(os.getpid())}


if __name__ == "__main__":
    _end_with_parent()
    importlib.import_module(sys.argv.pop(1)).main()
