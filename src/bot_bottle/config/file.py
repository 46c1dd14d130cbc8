"""Finds and reads bottle.toml, or the build that a devcontainer.json names. Both are untrusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from bot_bottle.errors import SpecError

if TYPE_CHECKING:  # the schema is only loaded where there is a file
    from bot_bottle.config.devcontainer import Devcontainer
    from bot_bottle.config.model import File

NAME = "bottle.toml"
DEVCONTAINERS = (Path(".devcontainer/devcontainer.json"), Path(".devcontainer.json"))
_DOCKERFILES = ("Dockerfile", "Containerfile")
_LIMIT = 1 << 20  # bytes; a configuration has some hundred


class ConfigFile(Struct, frozen=True):
    """A configuration file. `root` is the folder that its paths are relative to and cannot leave.

    `variables` are those of this machine that values were taken from, `private` the keys that have such
    values. `devcontainer` is what a devcontainer.json says besides.
    """

    path: Path
    root: Path
    content: File
    variables: tuple[str, ...] = ()
    private: frozenset[str] = field(default_factory=frozenset)
    devcontainer: Devcontainer | None = None

    def inside(self, value: str, key: str) -> Path:
        """Return the absolute path of a file or folder that the file names. Raises SpecError if outside."""
        path = Path(value)
        root = self.root.resolve()
        where = (root / path).resolve() if "\0" not in value else Path("/")
        if path.is_absolute() or not where.is_relative_to(root):
            raise SpecError(
                f"{self.path}: {key} points outside the repository",
                why="a repository may only build its own files",
                next_step=f"use a path inside {self.root}, or build it yourself and use --image",
            )
        return where


def find(start: Path, *, upwards: bool, devcontainer: bool = True) -> ConfigFile | None:
    """Return the configuration for a folder: its bottle.toml, or (`upwards`) that of a folder above it.

    The search ends with the repository's top folder (the one that has `.git`), or that of the file system.
    Where there is no bottle.toml and no Dockerfile, a devcontainer.json is used, if `devcontainer`: it
    describes one image, and means nothing for others. Raises SpecError when the file cannot be used.
    """
    start = start.absolute()
    for folder in (start, *start.parents) if upwards else (start,):
        path = folder / NAME
        if os.path.lexists(path):
            from bot_bottle.config.model import parse

            return ConfigFile(path, folder, parse(read_toml(path), str(path)))
        if os.path.lexists(folder / ".git"):
            break
    if not devcontainer or any((start / name).exists() for name in _DOCKERFILES):
        return None
    for path in (start / name for name in DEVCONTAINERS):
        if os.path.lexists(path):
            from bot_bottle.config.devcontainer import parse_devcontainer

            found = parse_devcontainer(_text(path), path, start)
            return ConfigFile(path, start, found.content, found.variables, found.private, found)
    return None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the document in a TOML file. Raises SpecError."""
    import tomllib

    try:
        return tomllib.loads(_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"{path} is not TOML", why=str(error), next_step=f"correct {path}") from error


def _text(path: Path) -> str:
    try:
        # opening a FIFO would block, and a device could be anything
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SpecError(f"{path} is not a regular file")
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise SpecError(f"{path} is too large: a configuration has {_LIMIT >> 20} MiB at most")
        return data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8", why=error.reason) from error
    except OSError as error:
        raise SpecError(f"cannot read {path}", why=error.strerror or str(error)) from error
