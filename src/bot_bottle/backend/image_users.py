"""The uid and gid of a user, looked up in an artifact or in an engine's image."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bot_bottle.backend.users import resolve
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError
from bot_bottle.host.rundir import RunDir
from bot_bottle.smolmachine import format as artifact_format
from bot_bottle.tar.pieces import PieceStream
from bot_bottle.tar.reader import REGULAR, Headers
from bot_bottle.verify.entries import plain

_FILES = (b"etc/passwd", b"etc/group")
_LARGEST = 4 << 20  # bytes of /etc/passwd or /etc/group
_LABEL = "bot-bottle.look"
STRAY = "look-container"


def of_artifact(artifact: Path, user: str) -> tuple[int, int]:
    """Return uid and gid of a user of an artifact (`user` as in an image; "" for root). Raises ImageError."""
    user = user or "0"
    if _is_numeric(user):
        return resolve(user, b"", b"")
    found: dict[bytes, bytes] = {}

    def look(_name: str, pieces: Iterator[bytes]) -> None:
        headers = Headers(PieceStream(pieces), "the artifact")
        for member in headers:
            name = plain(member.name.encode("utf-8", "surrogateescape"))
            if name in _FILES and member.type in REGULAR and member.size <= _LARGEST:
                found[name] = b"".join(headers.data())
            if len(found) == len(_FILES):
                raise _Enough

    with suppress(_Enough):
        artifact_format.verify(artifact, on_layer=look)
    return resolve(user, *(found.get(name, b"") for name in _FILES))


def _is_numeric(user: str) -> bool:
    """Return whether the text itself has both numbers; those of root are the same everywhere."""
    parts = user.split(":")
    return user == "0" or (len(parts) == 2 and all(part.isdigit() for part in parts))


class _Enough(Exception):
    """Both files have been found, and the rest need not be read."""


def of_image(engine: Engine, image: str, user: str, run: RunDir) -> tuple[int, int]:
    """Return uid and gid of a user of an engine's image ("" for the image's own user).

    A container is created from it and not started. Raises ImageError, EngineError.
    """
    user = user or str(engine.config(image).get("User") or "0")
    if _is_numeric(user):
        return resolve(user, b"", b"")
    label = f"{_LABEL}={run.path.name}"
    containers = engine.containers
    containers.record(run, STRAY, label)
    try:
        made = containers.create(
            image, ["none"], ["--pull=never", "--network=none", f"--label={label}"]
        ).checked()
        found = [_file_in(engine, made.text, name.decode()) for name in _FILES]
    finally:
        containers.remove(label)
    return resolve(user, *found)


def _file_in(engine: Engine, container: str, name: str) -> bytes:
    done = engine.containers.copy(container, f"/{name}")
    try:
        with tarfile.open(fileobj=io.BytesIO(done.stdout), mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                return file.read(_LARGEST) if file else b""
    except tarfile.TarError:
        pass
    if (
        done.code
        and "no such" not in done.complaint.lower()
        and "could not find" not in done.complaint.lower()
    ):
        raise EngineError(f"{engine.name} could not read a file of the image", why=done.complaint)
    return b""
