"""`ephemeral_registry()`: a registry on loopback for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from bot_bottle.engine import containers, push_names
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import RegistryError
from bot_bottle.host import process_tree, rundir
from bot_bottle.host.rundir import RunDir
from bot_bottle.registry import container
from bot_bottle.registry.registry import Reference, Registry

__all__ = ["Form", "Reference", "Registry", "ephemeral_registry"]

Form = Literal["embedded", "container"]

_SWEEPERS: dict[str, rundir.Sweeper] = {
    container.STRAY: containers.sweep,
    push_names.STRAY: push_names.sweep,
    "process": process_tree.sweep_process,
}


@contextmanager
def ephemeral_registry(
    form: Form = "embedded",
    *,
    push: bool = False,
    keep: Path | None = None,
    run: RunDir | None = None,
    engine: Engine | None = None,
) -> Iterator[Registry]:
    """Yield a running registry on a free port of 127.0.0.1; it is removed however the block ends.

    `embedded` serves from this process; `container` runs the registry image with the engine (default: the one
    that answers). With `push` repositories under its prefix may be written to; those of the container always
    may. Blobs that are pushed also go to the folder `keep` (embedded form only), and need not be pushed to a
    later registry again. `run` is the folder for temporary files (default: a new one).

    Raises RegistryError, EngineError.
    """
    with ExitStack() as stack:
        if run is None:
            rundir.sweep(_SWEEPERS)
            run = stack.enter_context(rundir.run_dir())
        if form == "container" and keep is not None:
            raise RegistryError("the container form cannot keep blobs", next_step="use the embedded form")
        if form == "container":
            yield stack.enter_context(container.container(run, engine, push=push))
        else:
            from bot_bottle.registry.embedded import embedded  # the HTTP server takes long to import

            yield stack.enter_context(embedded(run, push=push, keep=keep))
