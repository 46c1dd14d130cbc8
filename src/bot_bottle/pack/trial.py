"""The proof that an engine's images become artifacts: one of one file is built, packed and removed again.

It goes the way of `bottle run`, with a cache of its own in the run folder, so that it finds nothing and
leaves nothing. What a killed command leaves in the engine is found by the image's label.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.engine.engine import BuildRequest, Engine
from bot_bottle.engine.images import removed_images
from bot_bottle.engine.source import Source
from bot_bottle.errors import BottleError, Interrupted
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.pack.converter import Converter
from bot_bottle.pack.options import ConvertOptions
from bot_bottle.smolmachine import format as artifact_format

STRAY = "trial-image"

_LABEL = "bot-bottle.trial"
_WORDS = 3  # lines of what an engine said


class TrialResult(Struct, frozen=True):
    """How a trial went: `step` is the one that failed, "" if none did; `size` is the artifact's, in bytes."""

    seconds: float
    size: int = 0
    step: str = ""
    error: BottleError | None = None

    @property
    def words(self) -> str:
        """What failed and the end of what the engine said, in one line."""
        if self.error is None:
            return ""
        return ": ".join([self.error.message, *self.error.why.splitlines()[-_WORDS:]])


def try_image(engine: Engine, run: RunDir) -> TrialResult:
    """Build an image of one file, pack it, read the artifact, and remove both. Raises Interrupted."""
    token = secrets.token_hex(8)
    begun = time.monotonic()
    step = "build"
    try:
        label = f"{_LABEL}={token}"
        with removed_images(engine, run, STRAY, label), _context(engine, label) as context:
            image_id = engine.build(BuildRequest(context), lambda _: None)
            step = "pack"
            with paths.override_cache_dir(run.folder("trial")):
                converter = Converter(run, Progress(), ConvertOptions(engine=engine.name))
                entry = converter.convert(Source(image=image_id)).entry
                artifact_format.verify(entry.path)
                size = entry.path.stat().st_size
            step = "remove"
    except Interrupted:
        raise
    except BottleError as error:
        return TrialResult(time.monotonic() - begun, step=step, error=error)
    return TrialResult(time.monotonic() - begun, size)


@contextmanager
def _context(engine: Engine, label: str) -> Iterator[Path]:
    """Make a build context. The file is always the same, so that a builder's cache does not grow."""
    with engine.scratch() as folder:
        context = folder / "context"
        context.mkdir()
        (context / "file").write_text("bot-bottle\n")
        os.utime(context / "file", (0, 0))
        (context / "Dockerfile").write_text(f"FROM scratch\nCOPY file /file\nLABEL {label}\n")
        yield context
