"""What a backend needs of a workspace: which folder the bottle sees, where, and what of it is read-only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from bot_bottle.workspace.index_file import IndexFile

Mode = Literal["none", "clone", "mount"]
MODES: tuple[Mode, ...] = ("none", "clone", "mount")

PLACE = "/workspace"


class Mount(Struct, frozen=True):
    """A folder of the caller that the bottle's user may write to as if it were their own.

    Files that are made in it belong to the caller on this machine. `kept` names files and folders in it that
    are read-only in the bottle. `index` is that of a clone: it may record the owners that the bottle sees.
    """

    source: Path
    target: str = PLACE
    kept: tuple[str, ...] = ()
    index: IndexFile | None = None


class Request(Struct, frozen=True):
    """What a bottle is to see. `project` is a folder in the repository, or any folder to mount.

    `remotes` are names and URLs for a clone, which has none otherwise.
    """

    mode: Mode = "none"
    project: Path = Path()
    include_dirty: bool = False
    remotes: Mapping[str, str] = field(default_factory=dict)

    @property
    def top(self) -> Path:
        """The folder that is cloned or mounted: the repository's, or the project's if it is in none."""
        return find_top(self.project) or self.project.resolve()


def find_top(start: Path) -> Path | None:
    """Return the top folder of the repository that holds a folder: the nearest with a `.git`, or None."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if os.path.lexists(folder / ".git")), None)
