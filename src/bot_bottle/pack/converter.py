"""Local image to `.smolmachine`: built, and found in the cache or made. No virtual machine is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from bot_bottle.cache.cache import Cache, Explanation
from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.cache.entry import Entry
from bot_bottle.cache.key import Key
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.engine.identity import EngineImage
from bot_bottle.engine.source import Pull, Source
from bot_bottle.errors import EngineError, ImageError, RegistryError, UsageError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.spec import Digest, Platform
from bot_bottle.pack.options import ConvertOptions, PackerName, PackOptions, Transport, source_date
from bot_bottle.rootfs import FLATTEN_VERSION
from bot_bottle.smolmachine.format import VERSION as FORMAT_VERSION
from bot_bottle.structs import replace
from bot_bottle.vm.guest_rootfs import guest_version

if TYPE_CHECKING:  # imported on a cache miss only
    from bot_bottle.image.archive import Image
    from bot_bottle.pack.artifact import PackResult
    from bot_bottle.pack.export import Exporter, Watch
    from bot_bottle.pack.native import NativePacker
    from bot_bottle.pack.smolvm import SmolvmPacker
    from bot_bottle.rootfs.smolvm_compat import Unsupported


class Conversion(Struct, frozen=True):
    """An image and the artifact made of it, or found; `fetched` if another machine has made it.

    `losses` are what this packing left out, and `seconds` the stages of this conversion: an artifact that was
    found was packed by none.
    """

    image_id: str
    entry: Entry
    packer: PackerName
    losses: tuple[Unsupported, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    fetched: bool = False


_DEFAULT = ConvertOptions()


class _AnotherConfigError(Exception):
    """The image has another config than was recorded or stated."""


class Converter:
    """Makes artifacts. An engine is only asked when an image needs it."""

    def __init__(
        self,
        run: RunDir,
        progress: Progress,
        options: ConvertOptions = _DEFAULT,
    ) -> None:
        self._run = run
        self._progress = progress
        self._chosen = options
        self._engine = options.found_engine
        self._archives: dict[Path, Path] = {}
        self.cache = Cache(paths.artifacts_dir())

    @property
    def engine(self) -> Engine:
        """The container engine. Raises EngineError when none answers."""
        if self._engine is None:
            self._engine = find_engine(self._chosen.engine, say=self._progress.note)
        return self._engine

    @property
    def engine_name(self) -> str | None:
        """The engine's name, if an engine was needed."""
        return self._engine.name if self._engine else None

    def versions(self) -> dict[str, str]:
        """Return the versions of the tools that make artifacts, and of the engine if one was needed."""
        engine = self._engine
        asked = f"{engine.name} {engine.client_version} / {engine.server_version}" if engine else ""
        return {"smolvm": guest_version(), **({"engine": asked} if asked else {})}

    def image(self, source: Source) -> EngineImage:
        """Return what identifies the source's image; build it first if it is a Dockerfile's folder."""
        found = self._base(source)
        if source.features is None and source.setup is None and source.agent is None:
            return found
        from bot_bottle.pack.additions import added

        return added(self.engine, found, source, self._run, self._progress)

    def _base(self, source: Source) -> EngineImage:
        """Return the source's image before anything is run on top of it."""
        if source.build is not None:
            # checked before an engine is looked for, which decides the possible names of a Dockerfile
            source.build.find_dockerfile("docker" if self._chosen.engine == "docker" else "podman")
            with self._progress.stage("build") as stage:
                built = self.engine.build_image(source.build, stage.say)
                stage.conclude(f"image {built.id[:19]} with {self.engine.name}")
                return built
        if source.image is not None:
            self._pull(source.image, source.pull)
            return self.engine.image(source.image)
        from bot_bottle.pack.source_archive import opened_archive

        with opened_archive(self._readable(source)) as image:
            return EngineImage(str(image.image_id), config_digest=image.image_id)

    def _readable(self, source: Source) -> Source:
        """Return the source with its archive, if it has one, readable: in a file, and not compressed."""
        if source.archive is None:
            return source
        from bot_bottle.pack.source_archive import plain_archive

        if source.archive not in self._archives:
            target = self._run.folder(f"archive-{len(self._archives)}") / "image.tar"
            self._archives[source.archive] = plain_archive(
                source.archive, target, self._chosen.largest_image, self._progress
            )
        return replace(source, archive=self._archives[source.archive])

    def _pull(self, ref: str, pull: Pull) -> None:
        if pull == "always" or (pull == "missing" and not self.engine.exists(ref)):
            with self._progress.stage("pull") as stage:
                self.engine.pull(ref, stage.say)
                stage.conclude(f"{ref} with {self.engine.name}")

    def image_id(self, source: Source) -> str:
        """Return the engine's id of the source's image; build it first if needed."""
        return self.image(source).id

    def remote_user(self, image_id: str) -> str:
        """Return the user that an image made for a devcontainer.json says works in it; "" without one."""
        from bot_bottle.engine.features import label
        from bot_bottle.workspace.features import labelled_user

        return labelled_user(label(self.engine, image_id))

    def convert(self, source: Source) -> Conversion:
        """Return the artifact of a source, from the cache if nothing that decides its bytes has changed."""
        if self._chosen.found is not None:
            return self._chosen.found
        transport = self._chosen.transport
        if source.archive is not None and transport in ("direct", "push"):
            raise UsageError(f"--transport {transport} needs an image in an engine, not an archive")
        before = dict(self._progress.seconds)
        conversion = self._find_or_pack(source)
        if (shared := self._chosen.shared) is not None:
            with conversion.entry.hold():
                shared.offer(conversion.entry, self._progress)
        if (on_conversion := self._chosen.on_conversion) is not None:
            on_conversion(source, conversion, self)
        after = self._progress.seconds.items()
        seconds = {
            name: round(took - before.get(name, 0), 3) for name, took in after if took != before.get(name)
        }
        return replace(conversion, seconds=seconds)

    def _find_or_pack(self, source: Source) -> Conversion:
        image = self.image(source)
        config = self._config_digest(image)
        if config is not None and (entry := self.cache.find(self.key(config))):
            return self._conversion(image, entry)
        try:
            return self._pack(source, image, config)
        except _AnotherConfigError:
            return self._pack(source, image, None)

    def _pack(self, source: Source, image: EngineImage, config: Digest | None) -> Conversion:
        """Make the artifact by the first transport that works. Raises what the last one raises."""
        from bot_bottle.pack.native import NativePacker

        with NativePacker(self._run, self._progress, self._chosen.largest_image) as packer:
            transports: Sequence[Transport] = self._transports(source, config)
            while True:
                transport, *others = transports
                # an archive is compressed while the engine writes it, unless another transport may follow
                watch = None if others else packer.ahead.watching
                export = partial(self._exported, source, image.id, transport, watch)
                try:
                    return self._export_and_pack(source, image, config, export, packer)
                except (EngineError, ImageError, RegistryError) as error:
                    if not others:
                        raise
                    self._exporter.give_up(transport, error)
                    transports = others

    def _export_and_pack(
        self,
        source: Source,
        image: EngineImage,
        config: Digest | None,
        export: Callable[[], AbstractContextManager[Image]],
        packer: NativePacker,
    ) -> Conversion:
        """Export an image and make its artifact, unless that is in the cache once its config is known."""
        with ExitStack() as stack:
            opened = None
            if config is None:
                opened = stack.enter_context(export())
                config = opened.image_id
                self._record(image, config)
            key, shared = self.key(config), self._chosen.shared
            slot = stack.enter_context(
                self.cache.locked(key, source=str(source), on_wait=self._progress.note)
            )
            if slot.entry is not None:
                return self._conversion(image, slot.entry)
            if shared is not None and (digest := shared.fetch(key, slot.path, self._progress)):
                return replace(self._conversion(image, slot.publish(digest)), fetched=True)
            if self._chosen.packer == "smolvm":
                result = self._pack_by_smolvm(source, image, slot.path)
            else:
                opened = opened or stack.enter_context(export())
                if opened.image_id != config:
                    raise _AnotherConfigError
                result = packer.pack(opened, self._options(), slot.path)
            return self._conversion(image, slot.publish(result.digest), result.unsupported)

    def _transports(self, source: Source, config: Digest | None) -> tuple[Transport, ...]:
        """Return the transports to try in turn; one where the image is in an archive or smolvm exports it."""
        wanted = self._chosen.transport
        if source.archive is not None or (config is not None and self._chosen.packer == "smolvm"):
            return (wanted,)
        return self._exporter.transports(wanted)

    @contextmanager
    def _exported(
        self, source: Source, image_id: str, transport: Transport, watch: Watch | None = None
    ) -> Iterator[Image]:
        """Open a source's image, exported from the engine if it is not an archive, for the block."""
        if source.archive is not None:
            from bot_bottle.pack.source_archive import opened_archive

            way = opened_archive(self._readable(source))
        else:
            way = self._exporter.opened(image_id, transport, watch)
        with way as image:
            yield image

    def _conversion(
        self, image: EngineImage, entry: Entry, losses: tuple[Unsupported, ...] = ()
    ) -> Conversion:
        if entry.hit:
            self._progress.note(f"{'pack':<8} cached  {entry.path.name}")
        return Conversion(image.id, entry, self._chosen.packer, losses)

    @contextmanager
    def opened(self, source: Source) -> Iterator[Image]:
        """Open a source's image, exported from the engine if it is not an archive, for the block."""
        image_id = "" if source.archive is not None else self.image_id(source)
        with self._exported(source, image_id, "save") as image:
            yield image

    def why(self, source: Source) -> Explanation:
        """Return why a run of this source would find its artifact, or not."""
        image = self.image(source)
        config = self._config_digest(image)
        if config is None:
            return Explanation(hit=False, image_id=image.id)
        return replace(self.cache.why(self.key(config), str(source)), image_id=image.id)

    def key(self, config_digest: Digest) -> Key:
        """Return the cache key: everything that decides the artifact's bytes.

        It has the image's config digest, as the config has the digests of all layers. Names, manifests,
        indexes and attestations do not change the artifact, and so they are not in the key.
        """
        return Key(
            config_digest=config_digest,
            platform=str(Platform.of_this_machine()),
            packer=self._chosen.packer,
            smolvm_version=guest_version(),
            format_version=FORMAT_VERSION,
            flatten_version=FLATTEN_VERSION,
            options=self._registry_parts() or self._options().key_parts(),
        )

    def _config_digest(self, image: EngineImage) -> Digest | None:
        """Return the digest of an image's config, or None where only an export shows it.

        The engine's id of an image is that digest, except for docker with containerd's image store.
        """
        own = Digest(image.id)
        if image.config_digest or self.engine.name == "podman":
            return image.config_digest or own
        if (self.cache.folder / self.key(own).name).exists():
            return own  # an artifact was made from a config with this digest
        digests = self._config_digests
        if found := digests.find(own.hex):
            return found
        exporter = self._exporter
        if not exporter.containerd_store:
            return own
        if found := exporter.stored_config_digest(image.id) or digests.find(self.engine.fingerprint(image)):
            digests.add(own.hex, found)
        return found

    @property
    def _config_digests(self) -> ConfigDigests:
        return ConfigDigests(paths.config_digests_dir())

    def _record(self, image: EngineImage, config: Digest) -> None:
        """Record the config digest that an export has shown, for this id of the image and for others."""
        for name in (Digest(image.id).hex, self.engine.fingerprint(image)):
            self._config_digests.add(name, config)

    @cached_property
    def _smolvm(self) -> SmolvmPacker:
        from bot_bottle.pack.smolvm import SmolvmPacker

        return SmolvmPacker(self._run, self._progress, self._chosen.accel)

    @cached_property
    def _via_registry(self) -> bool:
        """Whether smolvm pulls the image from a registry."""
        packer, via = self._chosen.packer, self._chosen.via
        return packer == "smolvm" and (via == "registry" or (via is None and not self._smolvm.takes_archives))

    def _registry_parts(self) -> tuple[tuple[str, str], ...]:
        if not self._via_registry:
            return ()
        pushed = self._chosen.transport == "push"
        return ("transport", "push" if pushed else "save"), ("via", "registry")

    def _options(self) -> PackOptions:
        return PackOptions(created=source_date(os.environ))

    def _pack_by_smolvm(self, source: Source, image: EngineImage, out: Path) -> PackResult:
        readable = self._readable(source)
        if self._via_registry:
            if readable.archive is not None:
                return self._smolvm.from_served_archive(readable.archive, readable.archive_name, out)
            push = self._chosen.transport == "push"
            return self._smolvm.from_served_image(self.engine, image.id, out, push=push)
        if readable.archive_name is not None:
            raise UsageError(
                "smolvm packs an archive of one image only",
                next_step="add --via registry, or drop --packer smolvm",
            )
        archive = readable.archive or self._exporter.save(image.id)
        return self._smolvm.from_archive(archive, image.id, out)

    @cached_property
    def _exporter(self) -> Exporter:
        """The exporter of images. Raises EngineError."""
        from bot_bottle.pack.export import Exporter

        return Exporter(self.engine, self._run, self._progress)
