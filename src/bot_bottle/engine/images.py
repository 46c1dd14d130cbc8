"""Images for the use of one command: imported from a tar, found by their label and removed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from bot_bottle.engine.commands import import_argv
from bot_bottle.engine.containers import engine_environment, engine_record
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError
from bot_bottle.host import process
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals

_IMPORTED_WITHIN = 120.0  # seconds
_REMOVED_WITHIN = 60.0  # seconds
_LOADED_WITHIN = 3600.0  # seconds


def import_image(engine: Engine, tar: IO[bytes], ref: str) -> process.Completed:
    """Import an image from a tar of its root filesystem as `ref`. The result says whether it failed."""
    return process.run(import_argv(engine.program, ref), timeout=_IMPORTED_WITHIN, input=tar, check=False)


def record_loaded(engine: Engine, ref: str, run: RunDir, kind: str, **facts: Any) -> None:
    """Record an image in `run` before it is loaded as `ref`, with facts and with what `sweep_named` needs."""
    run.record(kind, name=ref, **facts, **engine_record(engine.program))


def load_image(engine: Engine, archive: IO[bytes]) -> None:
    """Load an image from an archive that an engine has saved. Raises EngineError."""
    try:
        process.run([str(engine.program), "load"], timeout=_LOADED_WITHIN, input=archive)
    except process.CommandFailed as error:
        raise EngineError(f"{engine.name} cannot load the image", why=error.done.complaint) from error


def sweep_named(stray: Mapping[str, Any]) -> None:
    """Remove an image that was loaded, if it is there. Raises CommandFailed while a container uses it."""
    program, ref = stray["program"], stray["name"]
    env = engine_environment(stray["variables"])
    if process.run([program, "image", "ls", "--quiet", ref], timeout=_REMOVED_WITHIN, env=env).text:
        process.run([program, "image", "rm", ref], timeout=_REMOVED_WITHIN, env=env)


@contextmanager
def removed_images(engine: Engine, run: RunDir, kind: str, label: str) -> Iterator[None]:
    """Remove every image with a label (`KEY=VALUE`) when the block ends. Raises CommandFailed.

    The label is recorded in `run`, for `sweep` to use after a kill.
    """
    record = engine_record(engine.program)
    run.record(kind, label=label, **record)
    try:
        yield
    finally:
        with defer_signals():
            _remove(record["program"], label, dict(os.environ))


def sweep(stray: Mapping[str, Any]) -> None:
    """Remove the images of a killed command. Raises CommandFailed."""
    _remove(stray["program"], stray["label"], engine_environment(stray["variables"]))


def _remove(program: str, label: str, env: Mapping[str, str]) -> None:
    listing = [program, "image", "ls", "--all", "--quiet", "--no-trunc", f"--filter=label={label}"]
    if found := process.run(listing, timeout=_REMOVED_WITHIN, env=env).text.split():
        removal = [program, "image", "rm", "--force", *dict.fromkeys(found)]
        process.run(removal, timeout=_REMOVED_WITHIN, env=env)
