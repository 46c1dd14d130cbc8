"""The guest files that go into every artifact: the small system in which smolvm's agent runs.

They are part of smolvm. The PyPI package `smolmachines` brings them as `smol/agent-rootfs.tar.zst`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path

import zstandard
from msgspec import Struct

from bot_bottle.errors import ArtifactError, SmolvmError
from bot_bottle.smolmachine.frames import WINDOW_LOG_MAX, check_frames

PACKAGE = "smolmachines"
MEMBER = "agent-rootfs.tar"

_FILE = "smol/agent-rootfs.tar.zst"
_CHUNK = 1 << 20
_NEXT_STEP = f"install it again: pip install --force-reinstall {PACKAGE}"


class Guest(Struct, frozen=True, dict=True):
    """A compressed tar of guest files, and the smolvm version that they are part of."""

    path: Path
    version: str

    @cached_property
    def size(self) -> int:
        """The tar's size in bytes, uncompressed. Raises SmolvmError for a truncated file."""
        try:
            with self.path.open("rb") as file:
                size = check_frames(
                    lambda count, at: os.pread(file.fileno(), count, at), os.fstat(file.fileno()).st_size
                )
        except (ArtifactError, OSError) as error:
            why = error.why if isinstance(error, ArtifactError) else str(error)
            raise self._damaged(why) from error
        return sum(map(len, self.read())) if size is None else size

    def check(self) -> None:
        """Read all of it and compute its digest. Raises SmolvmError where it is damaged."""
        _ = self.digest
        size = sum(map(len, self.read()))
        if size != self.size:
            raise self._damaged(f"it has {size} bytes, but its header states {self.size}")

    @cached_property
    def digest(self) -> str:
        """The file's SHA-256, in hexadecimal. Raises SmolvmError."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self._damaged(str(error)) from error

    def frames(self) -> Iterator[bytes]:
        """Yield the file unchanged: zstd frames that can be part of an artifact."""
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def read(self) -> Iterator[bytes]:
        """Yield the tar's bytes, uncompressed. Raises SmolvmError."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG_MAX)
        try:
            with (
                self.path.open("rb") as file,
                decompressor.stream_reader(file, read_across_frames=True) as reader,
            ):
                while chunk := reader.read(_CHUNK):
                    yield chunk
        except (OSError, zstandard.ZstdError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> SmolvmError:
        return SmolvmError(f"smolvm's guest files are damaged: {self.path}", why=why, next_step=_NEXT_STEP)


def guest_version() -> str:
    """Return the smolvm version that the installed guest files are part of. Raises SmolvmError."""
    return installed()[1]


def find_guest() -> Guest:
    """Return the installed guest files, without reading them. Raises SmolvmError."""
    folder, version = installed()
    path = folder / _FILE
    if not path.is_file():
        raise SmolvmError(
            f"the package {PACKAGE} {version} has no guest files",
            why=f"{path} is missing",
            next_step=_NEXT_STEP,
        )
    return Guest(path, version)


def installed() -> tuple[Path, str]:
    """Return the folder that the package is installed into, and its version. Raises SmolvmError.

    The name of the metadata beside it has the version (PyPA, Recording installed projects). That is tried
    first: every command needs it, and loading importlib.metadata takes a tenth of a command's start.
    """
    spec = PathFinder.find_spec("smol")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parents[1]
        found = [path.stem for path in folder.glob(f"{PACKAGE}-*.dist-info")]
        if len(found) == 1:
            return folder, found[0].removeprefix(f"{PACKAGE}-")
    from importlib import metadata

    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise SmolvmError(
            "smolvm's guest files are not installed",
            why=f"the Python package {PACKAGE}, which contains them, is missing",
            next_step=f"pip install {PACKAGE}",
        ) from error
    return Path(str(distribution.locate_file(""))), distribution.version
