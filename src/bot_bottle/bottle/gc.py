"""A run folder for each command, after leftovers of dead commands have been removed.

The function for a kind of leftover is imported when one is found: most commands find none.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bot_bottle.host import process_tree, rundir
from bot_bottle.host.rundir import RunDir


def _later(module: str, function: str, stray: dict[str, Any]) -> None:
    getattr(importlib.import_module(f"bot_bottle.{module}"), function)(stray)


_container = partial(_later, "engine.containers", "sweep")

SWEEPERS: dict[str, rundir.Sweeper] = {
    "process": process_tree.sweep_process,
    "machine": partial(_later, "backend.microvm.bottle", "sweep_machine"),
    "machine-tools": partial(_later, "backend.microvm.tools", "sweep"),
    "mount": partial(_later, "workspace.idmap", "sweep_mount"),
    "engine-mount": partial(_later, "backend.container.idmap_helper", "sweep"),
    "bottle-container": _container,
    "look-container": _container,
    "registry-container": _container,
    "trial-image": partial(_later, "engine.images", "sweep"),
    "fan": partial(_later, "cluster.kept", "sweep_kept"),
    "image-name": partial(_later, "engine.push_names", "sweep"),
    "build-name": partial(_later, "engine.build_names", "sweep"),
}


def sweep() -> int:
    """Remove leftovers of dead commands, and return how many there were."""
    return rundir.sweep(SWEEPERS)


@contextmanager
def run_context() -> Iterator[RunDir]:
    """Yield a run folder, after a sweep."""
    sweep()
    with rundir.run_dir() as run:
        yield run
