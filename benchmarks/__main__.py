"""Run the benchmarks that are named, or all; print a table of each, and keep its figures as JSON and SVG."""

from __future__ import annotations

import argparse
import compileall
import importlib
import os
import sys
from pathlib import Path

import bot_bottle
from benchmarks.measure import Claim, facts, keep, table
from benchmarks.plot import plot

ALL = (
    "pack",
    "engines",
    "scale",
    "reference",
    "registry",
    "start",
    "agents",
    "network",
    "caches",
    "fleet",
    "shared_cache",
)


def main() -> int:
    """Give 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(ALL)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is gone (default: 5)")
    parser.add_argument(
        "--largest", type=int, default=5000, metavar="MB", help="the largest image of `scale` (default: 5000)"
    )
    parser.add_argument("--out", type=Path, default=Path(".cache/benchmarks"), help="folder of the figures")
    given = parser.parse_args()
    _compile()
    holds = True
    for name in given.names or ALL:
        claims: list[Claim] = importlib.import_module(f"benchmarks.{name}").measure(
            given.rounds, given.largest
        )
        print(f"{table(name, claims)}\n", flush=True)
        keep(given.out / f"{name}.json", claims, facts())
        (given.out / f"{name}.svg").write_text(plot(claims))
        holds = holds and all(claim.holds for claim in claims)
    return 0 if holds else 1


def _compile() -> None:
    """Have bottle's modules compiled, as pip leaves them where it installs them."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(bot_bottle.__file__).parent, quiet=1)


if __name__ == "__main__":
    sys.exit(main())
