"""What a node keeps for all bottles of a fan: a folder, and the image that its engine has loaded.

The folder outlives the bottles. Each sweep of the node removes it, and the image, once its fan has ended: the
fan marks it then. Where the fan was killed, the next bottle of another fan marks it, and without Ray on the
node no mark is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

from bot_bottle.bottle.gc import sweep
from bot_bottle.cluster.order import Order
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.images import load_image, record_loaded, sweep_named
from bot_bottle.errors import ClusterError
from bot_bottle.host import paths
from bot_bottle.host.process_tree import start_time
from bot_bottle.host.rundir import RunDir

STRAY = "fan"

_ENDED = "ended"  # a file in the folder of a fan that has ended
_NAME = "name"  # a file with the name of the fan's actor


def kept_folder(order: Order, run: RunDir) -> RunDir:
    """Return the folder of a fan, made if it is missing. The process that calls this is Ray's child."""
    folder = _folder(order.fan)
    if not folder.exists():
        made = RunDir(run.folder("fan"))
        (made.path / _NAME).write_text(order.spec.slug, "utf-8")
        made.record(STRAY, **_facts(order))
        try:
            made.path.rename(folder)  # as a whole: any sweep may look at it from now on
        except OSError:
            if not folder.is_dir():  # else another worker was faster
                raise
    return RunDir(folder)


def load(engine: Engine, archive: IO[bytes], order: Order, run: RunDir) -> None:
    """Load the image of a fan, whose folder is `run`. Raises EngineError."""
    record_loaded(engine, order.image, run, STRAY, **_facts(order))
    load_image(engine, archive)


def _facts(order: Order) -> dict[str, Any]:
    ray = os.getppid()
    return {"folder": str(_folder(order.fan)), "ray": ray, "started": start_time(ray)}


def forget(fan: str) -> None:
    """Remove what is kept for a fan that has ended; an image that a container still uses is removed later."""
    folder = _folder(fan)
    if folder.is_dir():
        (folder / _ENDED).touch()
        sweep()


def forget_others(order: Order, living: Callable[[], Collection[str]]) -> None:
    """Mark what is kept for other fans as removable where their actors, which Ray lists, are gone.

    What belongs to another cluster is removed with that.
    """
    for folder in set(paths.runs_dir().glob(_folder("*").name)) - {_folder(order.fan)}:
        try:
            name = (folder / _NAME).read_text("utf-8")
        except OSError:
            continue  # it was removed just now
        if name == order.spec.slug or name not in living():
            (folder / _ENDED).touch()


def sweep_kept(stray: dict[str, Any]) -> None:
    """Remove an image, or allow the removal of a folder.

    Raises ClusterError while its fan goes on, CommandFailed while a container uses the image.
    """
    if not (Path(stray["folder"]) / _ENDED).exists() and start_time(stray["ray"]) == stray["started"]:
        raise ClusterError(f"the fan of {stray['folder']} goes on")
    if "name" in stray:
        sweep_named(stray)


def _folder(fan: str) -> Path:
    """Return the folder of a fan: another one after a restart of Ray, as any sweep may remove the first."""
    ray = os.getppid()
    return paths.runs_dir() / f"run-fan-{fan}-{ray}-{start_time(ray)}"
