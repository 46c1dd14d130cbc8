"""What bottles have done, by their names: shown, taken over, and kept from being lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from bot_bottle import paths
from bot_bottle.bottle import held, lives
from bot_bottle.errors import WorkspaceError
from bot_bottle.spec import check_slug
from bot_bottle.workspace import review
from bot_bottle.workspace.clone import Clone
from bot_bottle.workspace.collect import Work, collect
from bot_bottle.workspace.session import clone_of


def collected(name: str) -> tuple[Clone, Work]:
    """Bring what a bottle has done so far into the user's repository. Raises WorkspaceError.

    Of a bottle that lives, only its commits.
    """
    clone = clone_of(check_slug(name))
    return collect(clone, ended=not lives(name))


@contextmanager
def diff(name: str, *options: str) -> Iterator[BinaryIO]:
    """Give what a bottle changed, as `git diff` with these options has it: bytes that an agent chose."""
    clone, work = collected(name)
    with review.diff(clone, work, *options) as stream:
        yield stream


def apply(name: str) -> list[str]:
    """Merge what a bottle changed into the user's folder and give the names that changed there.

    Raises ConflictError, before anything is changed.
    """
    return review.apply(*collected(name))[1]


def remove(name: str, *, force: bool = False) -> list[str]:
    """Remove an ended bottle's clone, and all of its work that is on no branch of the user's.

    What would be lost is given instead, and nothing removed, unless it is forced. Raises WorkspaceError, also
    for a bottle that lives.
    """
    clone = clone_of(check_slug(name))
    with held(name) as free:
        if not free:
            raise WorkspaceError(f"the bottle {name} is running", next_step="end it first")
        lost = [] if force else review.unfetched(clone)
        if not lost:
            review.discard(clone)
            with suppress(OSError):  # it holds more
                paths.bottle_dir(name).rmdir()
    return lost
