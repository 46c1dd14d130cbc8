"""An artifact that is not in the cache is made: the image leaves its engine or archive, and is packed.

Imported on a cache miss only; a hit needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.source import Source
from bot_bottle.errors import DiskFullError, EngineError, ImageError, RegistryError, UsageError
from bot_bottle.host import paths
from bot_bottle.host.files import disk_full
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.export import Exporter, check_image_id
from bot_bottle.pack.native import NativePacker
from bot_bottle.pack.options import Transport
from bot_bottle.pack.source_archive import opened_archive

if TYPE_CHECKING:  # the native packer needs neither
    from bot_bottle.pack.smolvm import SmolvmPacker
    from bot_bottle.registry.registry import Reference, Registry

T = TypeVar("T")

_REPOSITORY = "bot-bottle"


class Maker:
    """Makes artifacts of images that an engine holds, or that are in archives.

    `engine` returns the engine. It is only called when an image needs it.
    """

    def __init__(self, engine: Callable[[], Engine], run: RunDir, progress: Progress) -> None:
        self._engine = engine
        self._run = run
        self._progress = progress

    @property
    def exporter(self) -> Exporter:
        """What takes images out of the engine."""
        return Exporter(self._engine(), self._run, self._progress)

    @contextmanager
    def opened(self, source: Source, image_id: str) -> Iterator[Image]:
        """Open a source's image, exported from the engine if it is not an archive, for the block."""
        if source.archive is not None:
            with opened_archive(source) as image:
                yield image
        else:
            with self.exporter.opened(image_id, "save") as image:
                yield image

    def natively(
        self,
        source: Source,
        image_id: str,
        transport: Transport,
        max_image_size: int,
        write: Callable[[NativePacker, Image], T],
    ) -> T:
        """Open the image by the first transport that works, and return what `write` makes of it.

        Raises what the last transport, or `write`, raises.
        """
        with NativePacker(self._run, self._progress, max_image_size) as packer:
            if source.archive is not None:
                with opened_archive(source) as image:
                    return write(packer, image)
            exporter = self.exporter
            *first, last = exporter.transports(transport)
            for each in first:
                try:
                    with exporter.opened(image_id, each) as image:
                        return write(packer, image)
                except (EngineError, ImageError, RegistryError) as error:
                    exporter.give_up(each, error)
            with exporter.opened(image_id, last, packer.ahead.watching) as image:
                return write(packer, image)

    def by_smolvm(self, packer: SmolvmPacker, source: Source, image_id: str, temp: Path) -> Digest:
        """Have smolvm write `temp`, of an archive."""
        if source.archive_name is not None:
            raise UsageError(
                "smolvm packs an archive of one image only",
                next_step="add --via registry, or leave out --packer smolvm",
            )
        with disk_full_explained(temp):
            archive = source.archive or self.exporter.save(image_id)
            with open_archive(archive) as image:
                check_image_id(image, image_id)
            return packer.from_archive(archive, temp)

    def through_registry(
        self, packer: SmolvmPacker, source: Source, image_id: str, temp: Path, *, push: bool
    ) -> Digest:
        """Have smolvm pull the image from a registry that is gone afterwards, and write `temp`."""
        from bot_bottle.registry.ephemeral import ephemeral_registry

        keep = paths.layers_dir() if push else None
        with disk_full_explained(temp), ephemeral_registry(push=push, keep=keep, run=self._run) as registry:
            reference = self._served(registry, source, image_id, push=push)
            return packer.from_registry(reference, registry.port, temp)

    def _served(self, registry: Registry, source: Source, image_id: str, *, push: bool) -> Reference:
        if push:
            with self._progress.stage("push") as stage:
                return registry.push_image(self._engine(), image_id, _REPOSITORY, stage.say)
        if source.archive is not None:
            return registry.load(source.archive, _REPOSITORY, source.archive_name)
        engine = self._engine()
        with self._progress.stage("export", engine.size(image_id) or None) as stage:
            reference = registry.load_image(engine, image_id, _REPOSITORY, stage.advance)
            stage.conclude(f"from {engine.name} into the registry")
            return reference


@contextmanager
def disk_full_explained(temp: Path) -> Iterator[None]:
    """Raise DiskFullError where the block has no room left for an artifact."""
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise DiskFullError(
                f"no room left for the artifact in {temp.parent}",
                why=str(error),
                next_step="bottle cache prune, or free some space",
            ) from error
        raise
