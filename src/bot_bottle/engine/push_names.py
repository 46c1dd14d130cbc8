"""Additional names of an image while it is pushed, removed afterwards.

docker 25 to 27 with containerd's image store removes an image with its last name even where that name is
moved to another image. So an image without a name is not pushed from there.

Source: moby, daemon/images/image_delete.go (ImageDelete).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bot_bottle.engine.containers import engine_record
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import is_containerd_store
from bot_bottle.engine.names import ImageNames
from bot_bottle.errors import EngineError
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals

STRAY = "image-name"


@contextmanager
def named_for_push(engine: Engine, image: str, pushed: str, second: str, run: RunDir) -> Iterator[None]:
    """Name an image in the block, to be pushed as `pushed`; `second` is another name of it meanwhile.

    Both are recorded in `run`, for `sweep` to remove after a kill. Raises EngineError.
    """
    _check_that_it_stays(engine, image)
    facts = {"engine": engine.name, "pushed": pushed, "second": second}
    run.record(STRAY, **facts, **engine_record(engine.program))
    named = False
    try:
        if engine.name != "podman":
            engine.tag(image, second)
        engine.tag(image, pushed)
        named = True
        yield
    finally:
        with defer_signals():
            engine.names.untag_pushed(pushed, second, named=named)


def loses_unnamed(engine: Engine) -> bool:
    """Return whether the engine removes an image with its last name, whatever becomes of that."""
    major = engine.server_version.partition(".")[0]
    return engine.name == "docker" and major in ("25", "26", "27") and is_containerd_store(engine.info())


def _check_that_it_stays(engine: Engine, image: str) -> None:
    if loses_unnamed(engine) and not engine.inspect(image).get("RepoTags"):
        raise EngineError(
            f"docker {engine.server_version} would lose the image {image} with a push",
            why="with containerd's image store it removes an image with its last name",
            next_step=f"give it a name: docker tag {image} NAME, or choose another --transport",
        )


def sweep(stray: Mapping[str, Any]) -> None:
    """Remove the names of an image that a killed command was pushing. Raises EngineError."""
    names = ImageNames.from_record(stray, stray["pushed"])
    names.untag_pushed(stray["pushed"], stray["second"])
