"""A fan's image, artifact and repository on a node: each is fetched once, and the others wait for it."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bot_bottle.cache.cache import Cache
from bot_bottle.cluster.kept import kept_folder, load
from bot_bottle.cluster.order import Artifact, FileName, Order
from bot_bottle.config.user import read_user_config
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.engine.source import Source
from bot_bottle.errors import CacheError, ClusterError
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.structs import replace
from bot_bottle.workspace.bundle import restore_repository

if TYPE_CHECKING:
    from bot_bottle.pack.converter import Conversion
    from bot_bottle.remote.shared import SharedCache


_images: dict[str, str] = {}  # by fan, as this worker has found them


class Fetch(Protocol):
    """Fetches a file of the caller's."""

    def __call__(self, name: FileName, out: Path, digest: str = "") -> None:
        """Write it to the new file `out`. Raises ClusterError, also for another SHA-256 than `digest`."""


def prepare_image(order: Order, run: RunDir, fetch: Fetch) -> Order:
    """Return the order for an image that this node's engine has, loaded into it if necessary.

    The engine is asked once for each fan: where the image is removed later, the bottle itself fails to find
    it, and the node refuses it. Raises EngineError, ClusterError.
    """
    if (image := _images.get(order.fan)) is None:
        engine = _engine()
        image = _found(engine, order)
        if not image:
            kept = kept_folder(order, run)
            with _locked(kept):
                image = _found(engine, order) or _load(engine, order, kept, fetch)
        _images[order.fan] = image
    return replace(order, spec=replace(order.spec, source=Source(image=image)))


def _found(engine: Engine, order: Order) -> str:
    """Return the image if the engine has it: as the caller's engine names it, or as it was loaded."""
    return next((each for each in (order.image_id, order.image) if engine.exists(each)), "")


def _load(engine: Engine, order: Order, kept: RunDir, fetch: Fetch) -> str:
    archive = kept.path / "image.tar"
    archive.unlink(missing_ok=True)
    fetch("image", archive)
    with archive.open("rb") as file:
        load(engine, file, order, kept)
    archive.unlink()
    return order.image


def prepare_repository(order: Order, run: RunDir, fetch: Fetch) -> Path:
    """Return the fan's repository on this node, to be copied. Raises ClusterError, WorkspaceError."""
    kept = kept_folder(order, run)
    repository = kept.path / "repository"
    with _locked(kept):
        if not repository.exists():
            bundle, restored = run.path / "repository.bundle", run.path / "restored"
            fetch("repository", bundle)
            restore_repository(bundle, restored, order.origin)
            restored.rename(repository)
            bundle.unlink()
    return repository


def _locked(kept: RunDir) -> AbstractContextManager[object]:
    """Lock what this node keeps for a fan for the block."""
    return exclusive_lock(kept.path / "lock", lambda: None)


@functools.cache
def _engine() -> Engine:
    """Return this node's engine. A worker asks it once who it is."""
    return find_engine(None)


def prepare_artifact(artifact: Artifact, fetch: Fetch) -> None:
    """Put an artifact into this node's cache, unless it is there: from its shared cache, or from the caller.

    Raises CacheError, ClusterError.
    """
    cache = Cache(paths.artifacts_dir())
    if (found := cache.find(artifact.key)) is None:
        with cache.locked(artifact.key, source="a fan", on_wait=lambda _: None) as slot:
            if (found := slot.entry) is None:
                shared = _shared_cache()
                digest = shared.fetch(artifact.key, slot.path, Progress()) if shared else None
                if digest != artifact.digest:
                    slot.path.unlink(missing_ok=True)
                    fetch("artifact", slot.path, artifact.digest.hex)
                found = slot.publish(artifact.digest)
    if found.digest != artifact.digest:
        raise ClusterError(
            "this node has another artifact with the same key",
            why=f"it has {found.digest}, and the caller {artifact.digest}",
            next_step=f"remove {found.path} there",
        )


def found_artifact(artifact: Artifact) -> Conversion:
    """Return an artifact that `prepare_artifact` has put into the cache. Raises CacheError."""
    from bot_bottle.pack.converter import Conversion  # not for the worker

    entry = Cache(paths.artifacts_dir()).find(artifact.key)
    if entry is None or entry.digest != artifact.digest:
        raise CacheError("the artifact is no longer in the cache of this node", next_step="run the fan again")
    return Conversion(artifact.image_id, entry, "native")


def _shared_cache() -> SharedCache | None:
    """Return the shared cache of this node's user, if one is named."""
    _, settings = read_user_config()
    if "cache.remote" not in settings:
        return None
    from bot_bottle.remote.reference import Reference
    from bot_bottle.remote.shared import SharedCache

    return SharedCache(Reference.parse(settings["cache.remote"]), settings.get("cache.trust"), None)
