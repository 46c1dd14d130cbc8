"""What bottles have done, by their names: shown, taken over, and kept from being lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from bot_bottle.bottle.names import is_running, lock_name
from bot_bottle.bottle.spec import check_slug
from bot_bottle.host import paths
from bot_bottle.host.files import remove_tree
from bot_bottle.workspace import review
from bot_bottle.workspace.clone import Clone, whole
from bot_bottle.workspace.fetch import Work, collect
from bot_bottle.workspace.open import clone_of


def collected(name: str) -> tuple[Clone, Work]:
    """Bring what a bottle has done so far into the user's repository. Raises WorkspaceError.

    Of a bottle that lives, only its commits.
    """
    clone = clone_of(check_slug(name))
    return collect(clone, ended=not is_running(name))


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


def lost(name: str) -> list[str]:
    """Say what would be lost with an ended bottle's clone; nothing if it has none."""
    if not whole(paths.bottle_dir(check_slug(name)) / "clone"):
        return []
    return review.unfetched(clone_of(name))


def remove(name: str, *, force: bool = False) -> list[str]:
    """Remove an ended bottle's clone, and all of its work that is on no branch of the user's.

    What would be lost is given instead, and nothing removed, unless it is forced. A clone that was never
    finished holds no work. Raises WorkspaceError, and
    SpecError for a bottle that lives.
    """
    with lock_name(check_slug(name), new=False):
        folder = paths.bottle_dir(name) / "clone"
        if not whole(folder):
            remove_tree(folder)
            return []
        clone = clone_of(name)
        lost = [] if force else review.unfetched(clone)
        if not lost:
            review.discard(clone)
    return lost
