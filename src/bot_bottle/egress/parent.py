"""Helpers of a bottle are processes of their own, and end with it, even after a SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "BOT_BOTTLE_PARENT"  # a helper's variable: with whom it ends


def end_with_parent() -> None:
    """Have the kernel end us with whoever started us, however that ends (prctl(2); linux only)."""
    parent = int(os.environ.pop(PARENT))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("bottle has ended")


def environment() -> dict[str, str]:
    """Give a helper's environment: ours, without a proxy that would be its own."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**env, PARENT: str(os.getpid())}
