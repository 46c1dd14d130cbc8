"""`python -m bot_bottle` is `bottle`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from bot_bottle.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
