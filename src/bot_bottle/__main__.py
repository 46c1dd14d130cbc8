"""`python -m bot_bottle` is `bottle`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from bot_bottle.cli import help as overview

        with contextlib.suppress(OSError):  # the slow path reports what is wrong
            os.write(1, overview.text().encode())
            return

    gc.set_threshold(20_000)  # imports leave nothing to collect, and looking takes a tenth of their time
    from bot_bottle.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
