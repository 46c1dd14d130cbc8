"""Images that a node's engine has loaded for fans: each has a record on the node, which outlives its bottles.

Each sweep of the node removes the image once its fan has ended: the fan marks it then. Where the fan was
killed, the next bottle of another fan marks it, and without Ray on the node no mark is needed.
"""

from __future__ import annotations

import json
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

STRAY = "fan-image"

_ENDED = "ended"  # a file in the folder of a fan that has ended
_FAN = "fan.json"  # the name of its actor, and the Ray that it belongs to


def load(engine: Engine, archive: IO[bytes], order: Order, run: RunDir) -> None:
    """Load the image of a fan. The worker process that calls this is Ray's child. Raises EngineError."""
    folder, ray = _folder(order.image), os.getppid()
    made = RunDir(run.folder("image"))
    (made.path / _FAN).write_text(json.dumps({"name": order.spec.slug, "ray": ray}), encoding="utf-8")
    facts = {"folder": str(folder), "ray": ray, "started": start_time(ray)}
    record_loaded(engine, order.image, made, STRAY, **facts)
    if not folder.exists():  # else a worker was killed while it loaded the image
        made.path.rename(folder)  # as a whole: any sweep may look at it from now on
    load_image(engine, archive)


def forget_image(image: str) -> None:
    """Remove the image of a fan that has ended; what a container still uses, a later command removes."""
    folder = _folder(image)
    if folder.is_dir():
        (folder / _ENDED).touch()
        sweep()


def forget_others(order: Order, living: Callable[[], Collection[str]]) -> None:
    """Mark the images of other fans as removable whose actors, which Ray lists as `living`, are gone."""
    for folder in set(paths.runs_dir().glob("run-image-*")) - {_folder(order.image)}:
        try:
            fan = json.loads((folder / _FAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it was removed just now
        ours = fan["ray"] == os.getppid()  # else it belongs to another cluster, and is removed with that
        if ours and (fan["name"] == order.spec.slug or fan["name"] not in living()):
            (folder / _ENDED).touch()


def sweep_image(stray: dict[str, Any]) -> None:
    """Remove an image. Raises ClusterError while its fan goes on, CommandFailed while a container uses it."""
    if not (Path(stray["folder"]) / _ENDED).exists() and start_time(stray["ray"]) == stray["started"]:
        raise ClusterError(f"the image {stray['name']} is in use")
    sweep_named(stray)


def _folder(image: str) -> Path:
    return paths.runs_dir() / f"run-image-{image.rpartition(':')[2]}"
