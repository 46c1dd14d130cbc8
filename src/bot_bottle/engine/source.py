"""Where an image comes from: a user's choice, checked and frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from bot_bottle.engine.commands import BuildRequest, check_build_args, check_ref
from bot_bottle.errors import UsageError

if TYPE_CHECKING:  # these are only loaded where there is one
    from bot_bottle.agent.choice import Agent
    from bot_bottle.workspace.features import Features
    from bot_bottle.workspace.lifecycle import Setup

STANDARD_INPUT = Path("-")

Pull = Literal["never", "missing", "always"]


class Source(Struct, frozen=True):
    """Where the image comes from: a build, an image in the engine, or an archive. Exactly one of them.

    `pull` says when the engine is to pull the image from its registry first. `archive_name` chooses among the
    images of an archive, by name or digest. The archive `-` is standard input. `features` are installed and
    `setup` is run on top of the image, with `no_cache` again; the layer of `agent` comes last. Raises
    SpecError for names that no engine accepts.
    """

    build: BuildRequest | None = None
    image: str | None = None
    archive: Path | None = None
    pull: Pull = "never"
    archive_name: str | None = None
    features: Features | None = None
    setup: Setup | None = None
    no_cache: bool = False
    agent: Agent | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.build, self.image, self.archive)) != 1:
            raise UsageError("give one of a folder to build, --image and --archive")
        if self.agent is not None and self.archive is not None:
            raise UsageError(
                "--agent does not work with --archive",
                next_step="load it into the engine (docker load), and use --image",
            )
        if self.image is not None:
            check_ref(self.image)
        if self.build is not None:
            check_build_args(self.build.build_args, os.environ)

    @classmethod
    def of_archive(cls, text: str) -> Source:
        """Return the source for `FILE[:NAME]` or `FILE[@DIGEST]`; an existing FILE has precedence."""
        if not Path(text).exists():
            for at in range(len(text) - 1, 0, -1):
                if text[at] in ":@" and _is_archive(text[:at]):
                    return cls(archive=Path(text[:at]), archive_name=text[at + 1 :])
        return cls(archive=Path(text))

    def __str__(self) -> str:
        if self.build is not None:
            return str(self.build.context.absolute())
        if self.archive is None or self.archive == STANDARD_INPUT:
            return self.image or "standard input"
        return ":".join(filter(None, (str(self.archive.absolute()), self.archive_name)))


def _is_archive(text: str) -> bool:
    path = Path(text)
    layout = (path / "index.json", path / "manifest.json")
    return path == STANDARD_INPUT or path.is_file() or any(each.is_file() for each in layout)


def parse_build_args(items: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
    """Parse `NAME=VALUE`, or `NAME` for its value here, as docker's --build-arg does."""
    return tuple(
        (name, value if equals else None) for name, equals, value in (item.partition("=") for item in items)
    )
