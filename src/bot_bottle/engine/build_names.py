"""Names of images for as long as something is built on them, or by another program."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bot_bottle.engine.commands import context_argv
from bot_bottle.engine.containers import engine_record
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.names import ImageNames
from bot_bottle.host import process
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals

STRAY = "build-name"


@contextmanager
def named_for_build(engine: Engine, image: str, run: RunDir) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what `FROM` calls an image in the block, and the variables that choose a builder that has it.

    BuildKit takes no ids, and drivers of buildx other than docker's own do not see its images. What a killed
    command leaves of the name is recorded in `run`, for `sweep`. Raises EngineError.
    """
    if engine.name == "podman":
        yield image.removeprefix("sha256:"), {}
        return
    env = {}
    if engine.builder == "buildx":
        asked = process.run(context_argv(engine.program), timeout=engine.timeout)
        env["BUILDX_BUILDER"] = asked.text  # docker's own is called as its context
    with own_name(engine, "base", run) as ref:
        engine.tag(image, ref)
        yield ref, env


def new_name(what: str) -> str:
    """Return a name for an image that nothing else has."""
    return f"localhost/bot-bottle-{what}:{secrets.token_hex(8)}"


@contextmanager
def own_name(engine: Engine, what: str, run: RunDir) -> Iterator[str]:
    """Yield a new name that is taken away when the block ends, and leaves its image. Raises EngineError."""
    ref = new_name(what)
    run.record(STRAY, engine=engine.name, name=ref, **engine_record(engine.program))
    try:
        yield ref
    finally:
        with defer_signals():
            engine.untag(ref)


def sweep(stray: Mapping[str, Any]) -> None:
    """Take a name away that a killed command gave to an image. Raises EngineError."""
    ImageNames.from_record(stray, stray["name"]).untag(stray["name"])
