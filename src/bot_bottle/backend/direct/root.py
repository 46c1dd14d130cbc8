"""The root image of an artifact, in the cache: its files as EROFS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bot_bottle.erofs.writer import ImageWriter
from bot_bottle.errors import AccelError
from bot_bottle.host import paths
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.progress import Progress
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.tar.reader import Headers
from bot_bottle.verify.entries import Stream


def root_image(artifact: Path, progress: Progress) -> Path:
    """Return an artifact's root image, made if it is not in the cache. Raises AccelError, ArtifactError."""
    folder = paths.emulation_dir() / "direct" / "roots"
    target = folder / f"{artifact.stem}.erofs"
    if target.is_file():
        return target
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        waiting = "waiting for another bot-bottle that makes the root image"
        with exclusive_lock(folder / "lock", lambda: progress.note(waiting)):
            if not target.is_file():
                with progress.stage("root"):
                    _write(artifact, target)
    except OSError as error:
        raise AccelError(f"cannot make the root image in {folder}", why=str(error)) from error
    return target


def _write(artifact: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("wb") as file:
        image = ImageWriter(file)

        def add(_name: str, pieces: Iterator[bytes]) -> None:
            headers = Headers(Stream(pieces), "the artifact")
            for member in headers:
                image.member(member, headers.data())

        artifact_format.verify(artifact, on_layer=add)
        image.finish()
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
