"""The root image of an artifact: made when it is first needed, and kept beside it in the cache."""

from __future__ import annotations

from pathlib import Path

from bot_bottle.cache.derived import derived_file
from bot_bottle.host.progress import Progress


def root_image(artifact: Path, progress: Progress) -> Path:
    """Return an artifact's root image, made if it is not in the cache, which holds the artifact.

    Raises ArtifactError, CacheError, DiskFullError.
    """

    def write(path: Path) -> None:
        from bot_bottle.vm.direct.root import write_root_image  # only here: most bottles find it

        write_root_image(artifact, path, progress)

    return derived_file(artifact, ".erofs", write, progress.note, on_damage=progress.warn)
