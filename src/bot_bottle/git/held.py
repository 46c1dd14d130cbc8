"""Pushes of a bottle that are held until the user pushes them on, or drops them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import BottleError, WorkspaceError
from bot_bottle.git.checks import HEADS
from bot_bottle.git.quarantine import Quarantine
from bot_bottle.git.remotes import Remote, find_remotes
from bot_bottle.host.files import remove_tree, write_private

_PROJECT = "project.json"


class Held(Struct, frozen=True):
    """A branch that a bottle has pushed and the remote does not have; `commits` has a line for each."""

    remote: str
    branch: str
    commit: str
    commits: tuple[str, ...]


def write_project(folder: Path, project: Path) -> None:
    """Record which repository of the user has the remotes of the quarantines in a folder."""
    write_private(folder / _PROJECT, json.dumps({"project": str(project.resolve())}) + "\n")


def held(folder: Path) -> list[Held]:
    """Return what is held in the quarantines of a bottle. Raises WorkspaceError."""
    found = []
    for made in _quarantines(folder):
        with made.locked():
            for branch, commit in sorted(made.held().items()):
                found.append(Held(made.remote.name, branch, commit, tuple(made.summary(commit))))
    return found


def forward(folder: Path) -> Iterator[tuple[Remote, dict[str, str], str]]:
    """Push on what is held, for each remote all of it or nothing; yield remotes, branches, git's messages.

    Raises WorkspaceError with git's message, SpecError when the user's repository has the remote no more.
    """
    project = _project(folder)
    for stored in _quarantines(folder):
        made = Quarantine(stored.folder, find_remotes(project, [stored.remote.name])[0])
        with made.locked():
            made.refresh(keep_held=True)
            if branches := made.held():
                said = made.upstream.push({HEADS + name: commit for name, commit in branches.items()}, {})
                made.forwarded(branches)
                yield made.remote, branches, said


def drop(folder: Path) -> list[Held]:
    """Drop what is held: its branches become those of the remote again. Returns what it was."""
    found = held(folder)
    for made in _quarantines(folder):
        with made.locked():
            made.reset()
    return found


def settle(folder: Path) -> None:
    """Remove the quarantines of a bottle that has ended, unless something is held in them."""
    try:
        if not held(folder):
            remove_tree(folder)
    except (BottleError, OSError):
        pass  # bottle rm does it


def _project(folder: Path) -> Path:
    try:
        return Path(json.loads((folder / _PROJECT).read_text())["project"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder} is damaged", why=str(error), next_step="remove it") from error


def _quarantines(folder: Path) -> list[Quarantine]:
    """Return the quarantines in a folder; their remotes have names only."""
    found = sorted(folder.glob("*.git")) if folder.is_dir() else []
    return [Quarantine(path, Remote(path.stem, "", "")) for path in found if (path / "complete").exists()]
