"""Ways gone in turn, so that a busy moment meets them all; medians; ratios; and what machine it was."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bot_bottle import __version__

Way = Callable[[], float | None]
"""Something to measure. It gives its own figure, or None to have its time taken, in seconds."""


@dataclass(frozen=True)
class Claim:
    """Two ways beside each other: `ours` is at most, or at least, so many times `theirs`.

    Without a limit it is a figure for the reader. `theirs` may also be a fixed bound, as for memory. Claims
    that have an `amount` are points of one curve.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    than: str
    at_most: float | None = None
    at_least: float | None = None
    amount: float | None = None

    @property
    def ratio(self) -> float:
        """The median of ours in medians of theirs."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def limit(self) -> str:
        """The limit in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the limit."""
        return not (
            (self.at_most is not None and self.ratio > self.at_most)
            or (self.at_least is not None and self.ratio < self.at_least)
        )


def rounds(count: int, **ways: Way) -> dict[str, tuple[float, ...]]:
    """Go every way `count` times, one after the other in each round; give each way's figures."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count):
        for name, way in ways.items():
            begun = time.perf_counter()
            figure = way()
            found[name].append(time.perf_counter() - begun if figure is None else figure)
            print(f"  round {number + 1}: {name} {found[name][-1]:.3f}", file=sys.stderr, flush=True)
    return {name: tuple(figures) for name, figures in found.items()}


def watched(*argv: str | Path, env: Mapping[str, str]) -> tuple[float, float]:
    """Run a program; give its seconds, and the most memory that it or a child of it held, in bytes.

    The kernel counts what the calling process held when it forked, so who calls has to be small.
    """
    begun = time.perf_counter()
    with subprocess.Popen(argv, env={**os.environ, **env}, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return time.perf_counter() - begun, used.ru_maxrss * 1024


def table(title: str, claims: list[Claim]) -> str:
    """Give the claims as a table in Markdown."""
    lines = [
        f"### {title}",
        "",
        "| what | measured | compared with | baseline | ratio | limit | |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        ours, theirs = (figure(figures, claim.unit) for figures in (claim.ours, claim.theirs))
        mark = "" if not claim.limit else "holds" if claim.holds else "DOES NOT HOLD"
        cells = (claim.what, ours, claim.than, theirs, f"{claim.ratio:.3g}", claim.limit, mark)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def keep(path: Path, claims: list[Claim], about: Mapping[str, Any]) -> None:
    """Write every figure as JSON."""
    described = [{**asdict(claim), "ratio": claim.ratio, "holds": claim.holds} for claim in claims]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "claims": described}, indent=2) + "\n")


def facts() -> dict[str, Any]:
    """Say what machine it was, and which versions."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory[1]) / 1e6) if memory else 0,
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "bot-bottle": __version__,
        "python": platform.python_version(),
        "docker": said("docker", "version", "--format", "{{.Client.Version}} / {{.Server.Version}}"),
        "docker-registry": said("docker-registry", "--version"),
    }


def said(*argv: str) -> str:
    """Run a program and give its standard output as text."""
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip()


def figure(figures: tuple[float, ...], unit: str) -> str:
    """Give the median with its unit."""
    return f"{statistics.median(figures):.3g} {unit}"
