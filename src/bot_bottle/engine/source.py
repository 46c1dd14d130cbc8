"""Where an image comes from, and how it becomes an artifact: what a user asked for, checked and frozen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot_bottle.engine.engine import BuildRequest
from bot_bottle.errors import SpecError, UsageError

PackerName = Literal["native", "smolvm"]
Via = Literal["archive", "registry"]
Transport = Literal["auto", "direct", "save", "push"]

MAX_IMAGE_SIZE = "64g"

_SIZE = re.compile(r"(\d{1,18})(b|k|m|g)?", re.IGNORECASE)
_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the image comes from: a build, an image the engine holds, or an archive. Exactly one of them."""

    build: BuildRequest | None = None
    image: str | None = None
    archive: Path | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.build, self.image, self.archive)) != 1:
            raise UsageError("give one of a folder to build, --image and --archive")

    def __str__(self) -> str:
        if self.build is not None:
            return str(self.build.context.absolute())
        return self.image or str(self.archive and self.archive.absolute())


@dataclass(frozen=True, slots=True)
class Packing:
    """Who makes the artifact, and how the image gets there.

    `via` is for smolvm; None is: an archive where smolvm takes one, else a registry. `transport` tells how
    the image leaves the engine (see transport.py); smolvm cannot read an engine's storage.
    """

    packer: PackerName = "native"
    via: Via | None = None
    transport: Transport = "auto"

    def __post_init__(self) -> None:
        if self.packer != "smolvm" and self.via:
            raise UsageError("--via is for --packer smolvm; the native packer needs no such thing")
        if self.packer == "smolvm" and self.transport == "direct":
            raise UsageError("--transport direct is for the native packer; smolvm takes archives")
        if self.packer == "smolvm" and self.transport == "push" and self.via != "registry":
            raise UsageError("--transport push needs a registry", next_step="add --via registry")


def bytes_of(text: str) -> int | None:
    """Read a size as docker writes them (`512m`, `2g`; bytes without a unit); None for anything else."""
    found = _SIZE.fullmatch(text.strip())
    return int(found[1]) * _UNITS[(found[2] or "b").lower()] if found else None


def parse_image_size(text: str) -> int:
    """Read the most that an image may hold, written as docker's sizes are, into bytes. Raises SpecError."""
    size = bytes_of(text)
    if not size:
        raise SpecError(f"not a size of an image: {text[:50]!r}", next_step="write it as 500m or 64g")
    return size


def parse_build_args(items: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    """Read `NAME=VALUE`, or `NAME` for the value it has here, as docker's --build-arg does."""
    return tuple(
        (name, value if equals else None) for name, equals, value in (item.partition("=") for item in items)
    )
