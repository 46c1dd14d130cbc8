"""Where an image comes from: what a user asked for, checked and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot_bottle.engine.engine import BuildRequest
from bot_bottle.errors import UsageError

Pull = Literal["never", "missing", "always"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the image comes from: a build, an image the engine holds, or an archive. Exactly one of them.

    `pull` says when the engine is to get the image from its registry first.
    """

    build: BuildRequest | None = None
    image: str | None = None
    archive: Path | None = None
    pull: Pull = "never"

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.build, self.image, self.archive)) != 1:
            raise UsageError("give one of a folder to build, --image and --archive")

    def __str__(self) -> str:
        if self.build is not None:
            return str(self.build.context.absolute())
        return self.image or str(self.archive and self.archive.absolute())


def parse_build_args(items: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    """Read `NAME=VALUE`, or `NAME` for the value it has here, as docker's --build-arg does."""
    return tuple(
        (name, value if equals else None) for name, equals, value in (item.partition("=") for item in items)
    )
