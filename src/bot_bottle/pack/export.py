"""How an image leaves its engine: read where it is kept, saved as an archive, or pushed layer by layer.

- direct: the layers are read in the engine's own storage, by who may do so (root, on the engine's machine).
  Nothing is exported; layers that are known already are not even opened.
- push: the engine pushes to a registry in this process. Layers that were pushed once do not move again.
  docker with containerd's image store pushes layers as it keeps them; others compress them first.
- save: the engine's export, always all of it. Works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from bot_bottle.engine.engine import Engine
from bot_bottle.engine.info import is_containerd_store, part
from bot_bottle.engine.storage import stored_image
from bot_bottle.errors import BottleError, EngineError, ImageError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.image.archive import Image, open_archive, spool
from bot_bottle.image.spec import Digest
from bot_bottle.pack.options import Transport

Watch = Callable[[Path], AbstractContextManager[Callable[[int], None]]]
"""Watches an archive being written for a block; what it yields is called with each piece's size."""

_REPOSITORY = "bot-bottle"


class Exporter:
    """Takes images out of an engine. What is temporary is in `run`."""

    def __init__(self, engine: Engine, run: RunDir, progress: Progress) -> None:
        self._engine = engine
        self._run = run
        self._progress = progress

    @cached_property
    def containerd_store(self) -> bool:
        """Whether the engine is docker with containerd's image store: ids are no config digests there.

        One that does not describe itself may still save its images, as every engine does.
        """
        with suppress(EngineError):
            return self._engine.name == "docker" and is_containerd_store(self._engine.info())
        return False

    def stored_config_digest(self, image_id: str) -> Digest | None:
        """Return the digest of an image's config where the engine keeps it, or None if it cannot be read."""
        with suppress(ImageError), stored_image(self._engine, image_id) as image:
            return None if image is None else image.image_id
        return None  # whatever is wrong with it, the export says so

    def transports(self, wanted: Transport) -> tuple[Transport, ...]:
        """Return the transports to try in turn, the last of which has to do."""
        if wanted != "auto":
            return (wanted,)
        return ("direct", "push", "save") if self.containerd_store else ("direct", "save")

    @contextmanager
    def opened(self, image_id: str, transport: Transport, watch: Watch | None = None) -> Iterator[Image]:
        """Open an image whose layers can be read in the block.

        `watch` sees an archive that has to be made for it, while it is made. Raises EngineError, ImageError,
        DiskFullError.
        """
        match transport:
            case "direct":
                way = self._direct(image_id)
            case "push":
                way = self._pushed(image_id)
            case _:
                way = open_archive(self.save(image_id, watch))
        with way as image:
            check_image_id(image, image_id)
            # nobody writes to what an engine or a registry keeps, or to the run folder
            yield replace(image, layers=tuple(replace(layer, immutable=True) for layer in image.layers))

    def give_up(self, transport: Transport, error: BottleError) -> None:
        """Say that a transport does not work here and another is tried, unless that was to be expected."""
        if not isinstance(error, _NotDirect):
            self._progress.note(f"{'export':<8} {transport} does not work here: {error.message}")

    def save(self, image_id: str, watch: Watch | None = None) -> Path:
        """Save an image to an archive in the run folder, and return its path."""
        archive = self._run.folder("export") / "image.tar"
        with (
            self._progress.stage("export", self._size(image_id)) as stage,
            watch(archive) if watch else nullcontext(_ignore) as seen,
        ):

            def written(count: int) -> None:
                stage.advance(count)
                seen(count)

            self._engine.write_archive(image_id, lambda stream: spool(stream, archive, written))
            stage.conclude(f"from {self._engine.name}")
        return archive

    def _size(self, image_id: str) -> int | None:
        """Return about how many bytes a saved image has; containerd's store saves them compressed."""
        return None if self.containerd_store else self._engine.size(image_id) or None

    @contextmanager
    def _direct(self, image_id: str) -> Iterator[Image]:
        with ExitStack() as stack:
            with self._progress.stage("export") as stage:
                image = stack.enter_context(stored_image(self._engine, image_id))
                if image is None:
                    raise _NotDirect(
                        f"the image cannot be read where {self._engine.name} keeps it",
                        why="it takes root on the engine's machine, and overlay2 or containerd's image store",
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
                yield self._identified(image, image_id)

    def _identified(self, image: Image, image_id: str) -> Image:
        """Return an image that was pushed with the id that it was asked for by, if it is what the id means.

        Of an index of which the engine holds one platform it pushes that one's manifest, from which nothing
        leads to the index: then all that the engine says of the id has to be so of the image.
        """
        wanted = Digest(image_id)
        if wanted in image.digests or not self.containerd_store:
            return image
        described = self._engine.inspect(image_id)
        run, config = part(described, "Config"), image.config
        same = (
            part(described, "RootFS").get("Layers") == [str(digest) for digest in config.diff_ids]
            and (described.get("Os"), described.get("Architecture"))
            == (config.platform.os, config.platform.architecture)
            and all(
                tuple(run.get(key) or ()) == tuple(value)
                for key, value in (
                    ("Entrypoint", config.entrypoint),
                    ("Cmd", config.cmd),
                    ("Env", config.env),
                    ("User", config.user),
                    ("WorkingDir", config.workdir),
                )
            )
        )
        return replace(image, digests=image.digests | {wanted}) if same else image


def check_image_id(image: Image, image_id: str) -> None:
    """Check that an image is the one that was asked for. Raises ImageError."""
    if Digest(image_id) not in image.digests:
        raise ImageError(
            "the engine exported another image than it was asked for",
            why=f"asked for {image_id}, got {image.image_id}",
        )


def _ignore(_count: int) -> None:
    pass


class _NotDirect(EngineError):
    """The engine's storage cannot be read from here."""
