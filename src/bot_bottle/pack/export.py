"""How an image leaves its engine: read from its storage, saved as an archive, or pushed layer by layer.

- direct: the layers are read from the engine's storage, if it is readable (as root, on the engine's machine).
  Nothing is exported; layers with cached headers are not even opened.
- push: the engine pushes to a registry in this process. Layers are pushed only once.
  docker with containerd's image store pushes layers as it stores them; others compress them first.
- save: the engine's export, always of the whole image. Works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
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
from bot_bottle.structs import replace

Watch = Callable[[Path], AbstractContextManager[Callable[[int], None]]]
"""A context manager for writing an archive, which yields a function to call with each piece's size."""

_REPOSITORY = "bot-bottle"


class Exporter:
    """Exports images from an engine. Temporary files are in `run`."""

    def __init__(self, engine: Engine, run: RunDir, progress: Progress) -> None:
        self._engine = engine
        self._run = run
        self._progress = progress

    @cached_property
    def containerd_store(self) -> bool:
        """Whether the engine is docker with containerd's image store, whose ids are not config digests.

        False for an engine that does not describe itself, which may still save its images.
        """
        with suppress(EngineError):
            return self._engine.name == "docker" and is_containerd_store(self._engine.info())
        return False

    def stored_config_digest(self, image_id: str) -> Digest | None:
        """Return the digest of an image's config in the engine's storage, or None if it cannot be read."""
        with suppress(ImageError), stored_image(self._engine, image_id) as image:
            return None if image is None else image.image_id
        return None  # the export reports the error

    def transports(self, wanted: Transport) -> tuple[Transport, ...]:
        """Return the transports to try in turn; an error of the last one is final."""
        if wanted != "auto":
            return (wanted,)
        return ("direct", "push", "save") if self.containerd_store else ("direct", "save")

    @contextmanager
    def opened(self, image_id: str, transport: Transport, watch: Watch | None = None) -> Iterator[Image]:
        """Open an image whose layers can be read in the block.

        `watch` is entered while an archive is written. Raises EngineError, ImageError, DiskFullError.
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
            # neither the storage of an engine or registry nor the run folder changes meanwhile
            yield replace(image, layers=tuple(replace(layer, immutable=True) for layer in image.layers))

    def give_up(self, transport: Transport, error: BottleError) -> None:
        """Print that a transport does not work here and the next is tried, unless that was expected."""
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
        """Return about how many bytes a saved image has; containerd's store saves it compressed."""
        return None if self.containerd_store else self._engine.size(image_id) or None

    @contextmanager
    def _direct(self, image_id: str) -> Iterator[Image]:
        with ExitStack() as stack:
            with self._progress.stage("export") as stage:
                image = stack.enter_context(stored_image(self._engine, image_id))
                if image is None:
                    raise _NotDirect(
                        f"the image cannot be read from the storage of {self._engine.name}",
                        why="this needs root on the engine's machine, and overlay2 or containerd's store",
                        next_step="choose another --transport",
                    )
                stage.conclude(f"not needed, read from {self._engine.name}'s storage")
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
        """Return a pushed image under the id with which it was requested, if it is the image of this id.

        Of an index of which the engine has one platform it pushes that platform's manifest, which does not
        refer to the index: then the engine's description of the id has to match the image.
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
    """Check that an image is the requested one. Raises ImageError."""
    if Digest(image_id) not in image.digests:
        raise ImageError(
            "the engine exported another image than the requested one",
            why=f"requested {image_id}, got {image.image_id}",
        )


def _ignore(_count: int) -> None:
    pass


class _NotDirect(EngineError):
    """The engine's storage cannot be read from here."""
