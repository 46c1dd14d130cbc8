"""`python -m bot_bottle` is `bottle`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from bot_bottle.cli import help as overview

        with contextlib.suppress(OSError):  # the slow path reports what is wrong
            os.write(1, overview.text().encode())
            return

    gc.set_threshold(20_000)  # imports leave nothing to collect, and looking takes a tenth of their time
    from bot_bottle.cli.main import run

    status = run(sys.argv[1:])
    if "ray" in sys.modules:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> NoReturn:
    """Exit without waiting for Ray's threads, which end within a fifth of a second. Ray is disconnected."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
