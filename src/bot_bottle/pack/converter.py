"""Local image to `.smolmachine`: built, and found in the cache or made. It takes no virtual machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.cache.cache import Cache, Explanation
from bot_bottle.cache.entry import Entry
from bot_bottle.cache.key import Key
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.engine.source import (
    MAX_IMAGE_SIZE,
    PackerName,
    Packing,
    Source,
    Transport,
    Via,
    parse_image_size,
)
from bot_bottle.errors import UsageError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.pack.options import PackOptions, source_date
from bot_bottle.rootfs import FLATTEN_VERSION
from bot_bottle.smolmachine.format import VERSION as FORMAT_VERSION
from bot_bottle.vm.guest_rootfs import guest_version

if TYPE_CHECKING:  # loaded by who needs it: where the artifact is found, nobody does
    from bot_bottle.image.archive import Image
    from bot_bottle.pack.making import Maker
    from bot_bottle.pack.smolvm import SmolvmPacker
    from bot_bottle.rootfs.smolvm_compat import Loss
    from bot_bottle.vm.host import Accel


@dataclass(frozen=True, slots=True)
class Conversion:
    """An image and the artifact made of it, or found."""

    image_id: str
    entry: Entry
    packer: PackerName
    losses: tuple[Loss, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


class Converter:
    """Makes artifacts. `engine` is a choice as in `find_engine`; it is only asked when an image needs it."""

    def __init__(
        self,
        run: RunDir,
        progress: Progress,
        *,
        engine: str | None = None,
        packer: PackerName = "native",
        accel: Accel = "auto",
        via: Via | None = None,
        transport: Transport = "auto",
        max_image_size: int | None = None,
    ) -> None:
        self._run = run
        self._progress = progress
        self._engine_choice = engine
        self._engine: Engine | None = None
        self._packing = Packing(packer, via, transport)
        self._accel = accel
        self._losses: tuple[Loss, ...] = ()
        self._max_image_size = max_image_size or parse_image_size(MAX_IMAGE_SIZE)
        self.cache = Cache(paths.artifacts_dir())

    @property
    def engine(self) -> Engine:
        """The container engine. Raises EngineError when none answers."""
        if self._engine is None:
            self._engine = find_engine(self._engine_choice)
        return self._engine

    def versions(self) -> dict[str, str]:
        """Give the versions of what artifacts are made with, and of the engine if one was asked."""
        engine = self._engine
        asked = f"{engine.name} {engine.client_version} / {engine.server_version}" if engine else ""
        return {"smolvm": guest_version(), **({"engine": asked} if asked else {})}

    def image_id(self, source: Source) -> str:
        """Give the source's image id, building it first if it is a Dockerfile's folder."""
        if source.build is not None:
            # told before an engine is asked for; which of them it is decides on the names that are looked for
            source.build.find_dockerfile("docker" if self._engine_choice == "docker" else "podman")
            with self._progress.stage("build") as stage:
                built = self.engine.build(source.build, stage.say)
                stage.conclude(f"image {built[:19]} with {self.engine.name}")
                return built
        if source.image is not None:
            return self.engine.image_id(source.image)
        from bot_bottle.pack.making import opened_archive

        assert source.archive is not None  # noqa: S101 - one of the three is there
        with opened_archive(source.archive) as image:
            return str(image.image_id)

    def convert(self, source: Source) -> Conversion:
        """Give the artifact of a source, from the cache when nothing that decides it has changed."""
        transport = self._packing.transport
        if source.archive is not None and transport in ("direct", "push"):
            raise UsageError(f"--transport {transport} is for images that an engine holds, not for archives")
        image_id = self.image_id(source)
        key = self.key(image_id)
        entry = self.cache.get_or_make(
            key,
            lambda temp: self._make(source, image_id, temp),
            on_wait=self._progress.note,
            source=str(source),
        )
        if entry.hit:
            self._progress.note(f"{'pack':<8} cached  {entry.path.name}")
        return Conversion(image_id, entry, self._packing.packer, self._losses, dict(self._progress.seconds))

    @contextmanager
    def opened(self, source: Source) -> Iterator[Image]:
        """Open a source's image, exported from the engine if it is not an archive, for the block."""
        image_id = "" if source.archive is not None else self.image_id(source)
        with self._maker.opened(source, image_id) as image:
            yield image

    def why(self, source: Source) -> Explanation:
        """Tell why a run of this source would find its artifact, or not."""
        return self.cache.why(self.key(self.image_id(source)), str(source))

    def key(self, image_id: str) -> Key:
        """Give the cache key: everything that decides the artifact's bytes."""
        return Key(
            image_id=Digest(image_id),
            platform=str(Platform.of_this_machine()),
            packer=self._packing.packer,
            smolvm_version=guest_version(),
            format_version=FORMAT_VERSION,
            flatten_version=FLATTEN_VERSION,
            options=self._registry_parts() or self._options().key_parts(),
        )

    @cached_property
    def _smolvm(self) -> SmolvmPacker:
        from bot_bottle.pack.smolvm import SmolvmPacker

        return SmolvmPacker(self._run, self._progress, self._accel)

    @cached_property
    def _via_registry(self) -> bool:
        """Whether smolvm pulls the image from a registry."""
        packer, via = self._packing.packer, self._packing.via
        return packer == "smolvm" and (via == "registry" or (via is None and not self._smolvm.takes_archives))

    def _registry_parts(self) -> tuple[tuple[str, str], ...]:
        if not self._via_registry:
            return ()
        pushed = self._packing.transport == "push"
        return ("transport", "push" if pushed else "save"), ("via", "registry")

    def _options(self) -> PackOptions:
        return PackOptions(created=source_date(os.environ))

    def _make(self, source: Source, image_id: str, temp: Path) -> Digest:
        packing = self._packing
        if packing.packer == "smolvm":
            if self._via_registry:
                push = packing.transport == "push"
                return self._maker.through_registry(self._smolvm, source, image_id, temp, push=push)
            return self._maker.by_smolvm(self._smolvm, source, image_id, temp)
        digest, self._losses = self._maker.natively(
            source, image_id, temp, packing.transport, self._options(), self._max_image_size
        )
        return digest

    @cached_property
    def _maker(self) -> Maker:
        from bot_bottle.pack.making import Maker

        return Maker(lambda: self.engine, self._run, self._progress)
