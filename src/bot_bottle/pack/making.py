"""An artifact that is not in the cache is made: the image leaves its engine or archive, and is packed.

Loaded when something has to be made; where it is found, nothing of this is needed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.source import Source, Transport
from bot_bottle.errors import DiskFullError, SpecError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image, open_archive
from bot_bottle.image.spec import Digest
from bot_bottle.pack.export import Exporter, expect
from bot_bottle.pack.options import PackOptions
from bot_bottle.rootfs.smolvm_compat import Loss

if TYPE_CHECKING:  # loaded by who needs it: the native packer does not
    from bot_bottle.pack.smolvm import SmolvmPacker
    from bot_bottle.registry.registry import Reference, Registry

_REPOSITORY = "bot-bottle"


class Maker:
    """Makes artifacts of images that an engine holds, or that are in archives.

    `engine` gives the engine. It is only asked for when an image needs it.
    """

    def __init__(self, engine: Callable[[], Engine], run: RunDir, progress: Progress) -> None:
        self._engine = engine
        self._run = run
        self._progress = progress

    @contextmanager
    def opened(self, source: Source, image_id: str) -> Iterator[Image]:
        """Open a source's image, exported from the engine if it is not an archive, for the block."""
        if source.archive is not None:
            with opened_archive(source.archive) as image:
                yield image
        else:
            with open_archive(self._exporter.save(image_id)) as image:
                yield image

    def natively(
        self,
        source: Source,
        image_id: str,
        temp: Path,
        transport: Transport,
        options: PackOptions,
        max_image_size: int,
    ) -> tuple[Digest, tuple[Loss, ...]]:
        """Have the native packer write `temp`. Gives its digest, and what of the image is not in it."""
        from bot_bottle.pack.native import NativePacker

        with _room_explained(temp), NativePacker(self._run, self._progress, max_image_size) as packer:
            work = partial(packer.pack, options=options, out=temp)
            if source.archive is not None:
                with opened_archive(source.archive) as image:
                    return work(image)
            return self._exporter.use(image_id, transport, work, packer.ahead.watching)

    def by_smolvm(self, packer: SmolvmPacker, source: Source, image_id: str, temp: Path) -> Digest:
        """Have smolvm write `temp`, of an archive."""
        with _room_explained(temp):
            archive = source.archive or self._exporter.save(image_id)
            with open_archive(archive) as image:
                expect(image, image_id)
            return packer.from_archive(archive, temp)

    def through_registry(
        self, packer: SmolvmPacker, source: Source, image_id: str, temp: Path, *, push: bool
    ) -> Digest:
        """The way of tools that take registry references alone: into a registry, pulled, registry gone."""
        from bot_bottle.registry.ephemeral import ephemeral_registry

        keep = paths.layers_dir() if push else None
        with _room_explained(temp), ephemeral_registry(push=push, keep=keep, run=self._run) as registry:
            reference = self._served(registry, source, image_id, push=push)
            return packer.from_registry(reference, registry.port, temp)

    def _served(self, registry: Registry, source: Source, image_id: str, *, push: bool) -> Reference:
        if push:
            with self._progress.stage("push") as stage:
                return registry.push_image(self._engine(), image_id, _REPOSITORY, stage.say)
        if source.archive is not None:
            return registry.load(source.archive, _REPOSITORY)
        engine = self._engine()
        with self._progress.stage("export", engine.size(image_id) or None) as stage:
            reference = registry.load_image(engine, image_id, _REPOSITORY, stage.advance)
            stage.conclude(f"from {engine.name} into the registry")
            return reference

    @property
    def _exporter(self) -> Exporter:
        return Exporter(self._engine(), self._run, self._progress)


@contextmanager
def opened_archive(path: Path) -> Iterator[Image]:
    """Open the image in an archive for the block. Raises SpecError when there is no such archive."""
    if not path.exists():
        raise SpecError(f"no such archive: {path}")
    with open_archive(path) as image:
        yield image


@contextmanager
def _room_explained(temp: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no room left for the artifact in {temp.parent}",
                why=str(error),
                next_step="bottle cache prune, or free some space",
            ) from error
        raise
