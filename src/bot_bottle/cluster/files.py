"""The image and the artifact on a node: what it lacks is fetched once, and the others wait for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bot_bottle.cluster.order import FileName, Order
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.engine.images import load_image, remove_named
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.rundir import RunDir

Fetch = Callable[[FileName, Path], None]


def prepare_image(order: Order, run: RunDir, fetch: Fetch) -> Order:
    """Return the order for an image that this node's engine has, loaded into it if necessary.

    Raises EngineError, ClusterError.
    """
    engine = find_engine(None)
    image = _found(engine, order)
    if not image:
        with exclusive_lock(paths.runs_dir() / "images.lock", lambda: None):
            image = _found(engine, order) or _load(engine, order, run, fetch)
    return replace(order, spec=replace(order.spec, source=Source(image=image)))


def _found(engine: Engine, order: Order) -> str:
    """Return the image if the engine has it: as the caller's engine names it, or as it was loaded."""
    return next((each for each in (order.image_id, order.image) if engine.exists(each)), "")


def _load(engine: Engine, order: Order, run: RunDir, fetch: Fetch) -> str:
    archive = run.path / "image.tar"
    fetch("image", archive)
    with archive.open("rb") as file:
        load_image(engine, file, order.image, run)
    archive.unlink()
    return order.image


def forget_image(image: str) -> None:
    """Remove an image that was loaded for a fan that has ended."""
    with suppress(BottleError):  # a container uses it still: the next command removes it
        remove_named(find_engine(None), image)
