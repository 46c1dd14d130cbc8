"""A bottle's workspace for the time that the bottle runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress
from bot_bottle.workspace.mount import mount_of, new_git_dirs
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.spec import Mount, Request


def clone_folder(name: str) -> Path:
    """Return the folder of a bottle's clone, or of the record of work that came from another machine."""
    return paths.bottle_dir(name) / "clone"


def based_on(request: Request) -> dict[str, Any]:
    """Return which repository a bottle belongs to, and which commit is checked out there; {} without one."""
    try:
        repository = open_repository(request.project)
        return {"repository": str(repository.top), "base": repository.head()}
    except WorkspaceError:
        return {}


def check_workspace(request: Request, *names: str) -> None:
    """Refuse what cannot be cloned or mounted for bottles of these names. Raises WorkspaceError."""
    if request.mode == "clone":
        for name in names:
            _check_new(name)
        open_repository(request.project).head()
    elif request.mode == "mount":
        mount_of(request.top)


@contextmanager
def opened(
    request: Request, name: str, progress: Progress, facts: dict[str, Any] | None = None
) -> Iterator[Mount | None]:
    """Yield the mount of a bottle's workspace, or None. However the block ends, its work is safe.

    A clone's work is brought into the user's repository; when that fails, the clone is kept and it is said.
    The result is put into `facts`.
    """
    if request.mode == "none":
        yield None
    elif request.mode == "mount":
        mount = mount_of(request.top)
        yield mount
        for path in new_git_dirs(mount):
            progress.warn(f"the bottle created {path}: running git there would apply its configuration")
    else:
        from bot_bottle.workspace.cloned import cloned  # only here: a bottle may have no clone

        _check_new(name)
        with cloned(clone_folder(name), request, name, progress, {} if facts is None else facts) as mount:
            yield mount


def _check_new(name: str) -> None:
    if clone_folder(name).exists():
        raise WorkspaceError(
            f"a clone from an earlier bottle {name} still exists",
            next_step=f"give another --name, or bottle rm {name}",
        )
