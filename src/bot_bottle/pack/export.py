"""How an image leaves its engine: read where it is kept, saved as an archive, or pushed layer by layer.

- direct: the layers are read in the engine's own storage, by who may do so (root, on the engine's machine).
  Nothing is exported; layers that are known already are not even opened.
- push: the engine pushes to a registry in this process. It compresses what it has not pushed before, which is
  slow, and does not move again what it has: for the next image of a kind.
- save: the engine's export, always all of it. Works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.source import Transport
from bot_bottle.engine.storage import stored_image
from bot_bottle.errors import EngineError, ImageError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image, open_archive, spool
from bot_bottle.image.spec import Digest

T = TypeVar("T")

Watch = Callable[[Path], AbstractContextManager[Callable[[int], None]]]
"""Watches an archive being written for a block; what it gives is told of each piece's size."""

_REPOSITORY = "bot-bottle"


class Exporter:
    """Takes images out of an engine. What is temporary is in `run`."""

    def __init__(self, engine: Engine, run: RunDir, progress: Progress) -> None:
        self._engine = engine
        self._run = run
        self._progress = progress

    def use(
        self, image_id: str, transport: Transport, work: Callable[[Image], T], watch: Watch | None = None
    ) -> T:
        """Do some work on an image whose layers can be read meanwhile.

        `watch` sees an archive that has to be made for it, while it is made. `auto` tries the engine's
        storage first, and does the work again with a saved image where that cannot be read, or turns out to
        be another than it should be. Raises EngineError, ImageError, DiskFullError.
        """
        if transport == "auto":
            try:
                return self.use(image_id, "direct", work, watch)
            except _NotDirect:
                transport = "save"
            except ImageError as error:
                self._progress.note(f"{'export':<8} {error.message}; {self._engine.name} saves it instead")
                transport = "save"
        ways: dict[Transport, Callable[[str], AbstractContextManager[Image]]]
        ways = {"direct": self._direct, "push": self._pushed, "save": partial(self._saved, watch=watch)}
        with ways[transport](image_id) as image:
            expect(image, image_id)
            return work(image)

    def save(self, image_id: str, watch: Watch | None = None) -> Path:
        """Save an image to an archive in the run folder, and give its path."""
        archive = self._run.folder("export") / "image.tar"
        with (
            self._progress.stage("export", self._engine.size(image_id) or None) as stage,
            watch(archive) if watch else nullcontext(_ignore) as seen,
        ):

            def written(count: int) -> None:
                stage.advance(count)
                seen(count)

            with self._engine.save(image_id) as stream:
                spool(stream, archive, written)
            stage.conclude(f"from {self._engine.name}")
        return archive

    @contextmanager
    def _saved(self, image_id: str, watch: Watch | None) -> Iterator[Image]:
        with open_archive(self.save(image_id, watch)) as image:
            yield image

    @contextmanager
    def _direct(self, image_id: str) -> Iterator[Image]:
        with self._progress.stage("export") as stage:
            image = stored_image(self._engine, image_id)
            if image is None:
                raise _NotDirect(
                    f"the image cannot be read where {self._engine.name} keeps it",
                    why="it takes root on the engine's own machine, and layers kept in overlay folders",
                    next_step="choose another --transport",
                )
            stage.conclude(f"not needed, read where {self._engine.name} keeps it")
        yield image

    @contextmanager
    def _pushed(self, image_id: str) -> Iterator[Image]:
        from bot_bottle.registry.ephemeral import ephemeral_registry

        with ephemeral_registry(push=True, keep=paths.layers_dir(), run=self._run) as registry:
            with self._progress.stage("export") as stage:
                reference = registry.push_image(self._engine, image_id, _REPOSITORY, stage.say)
                stage.conclude(f"pushed by {self._engine.name}")
            with registry.open_image(reference) as image:
                yield image


def expect(image: Image, image_id: str) -> None:
    """Hold that an image is the one that was asked for. Raises ImageError."""
    if Digest(image_id) not in image.digests:
        raise ImageError(
            "the engine exported another image than it was asked for",
            why=f"asked for {image_id}, got {image.image_id}",
        )


def _ignore(_count: int) -> None:
    pass


class _NotDirect(EngineError):
    """The engine's storage cannot be read from here."""
