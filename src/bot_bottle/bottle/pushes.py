"""What a bottle has pushed and the user holds: shown, pushed on, dropped."""

from __future__ import annotations

from collections.abc import Iterator

from bot_bottle.bottle import records
from bot_bottle.bottle.names import is_running
from bot_bottle.bottle.spec import check_slug
from bot_bottle.errors import SpecError
from bot_bottle.git import held
from bot_bottle.git.held import Held
from bot_bottle.git.remotes import Remote
from bot_bottle.git.server_process import held_folder


def list_held(name: str) -> list[Held]:
    """Return the branches of a bottle that are held. Raises SpecError for a bottle that never held any."""
    folder = held_folder(check_slug(name))
    if not folder.is_dir():
        records.newest(name)  # raises if there never was one
        raise SpecError(
            f"nothing of the bottle {name} is held", next_step="pushes are held with hold = true in [git]"
        )
    return held.held(folder)


def forward(name: str) -> Iterator[tuple[Remote, dict[str, str], str]]:
    """Push on what is held, for each remote all of it or nothing; yield remotes, commits by branch, messages.

    Raises WorkspaceError where git or the remote refuses.
    """
    list_held(name)
    yield from held.forward(held_folder(name))
    _settle(name)


def drop(name: str) -> list[Held]:
    """Drop what is held, and return what it was."""
    list_held(name)
    found = held.drop(held_folder(name))
    _settle(name)
    return found


def unforwarded(name: str) -> list[str]:
    """Return what would be lost with the held branches of a bottle."""
    return [
        f"{each.branch} is held for {each.remote}: bottle forward {name}"
        for each in held.held(held_folder(name))
    ]


def _settle(name: str) -> None:
    if not is_running(name):
        held.settle(held_folder(name))
