"""A bottle's workspace for the time that the bottle runs, and the report on its work when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bot_bottle.errors import BottleError, WorkspaceError
from bot_bottle.host import paths
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.host.text import printable
from bot_bottle.workspace.clone import Clone, create, load
from bot_bottle.workspace.fetch import Work, collect
from bot_bottle.workspace.mount import mount_of, new_git_dirs
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import Summary, summary
from bot_bottle.workspace.spec import Mount, Request


def clone_of(name: str) -> Clone:
    """Return the clone of a bottle. Raises WorkspaceError if it has none."""
    folder = clone_folder(name)
    if not folder.is_dir():
        raise WorkspaceError(
            f"no bottle named {name} has a clone", next_step="clones are made by bottle run --workspace clone"
        )
    return load(folder)


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
        clone = _made(request, name, progress)
        try:
            yield Mount(clone.work, index=clone.index_file)
        finally:
            _bring_back(clone, progress, {} if facts is None else facts)


def _check_new(name: str) -> None:
    if clone_folder(name).exists():
        raise WorkspaceError(
            f"a clone from an earlier bottle {name} still exists",
            next_step=f"give another --name, or bottle rm {name}",
        )


def _made(request: Request, name: str, progress: Progress) -> Clone:
    folder = clone_folder(name)
    _check_new(name)
    with progress.stage("clone") as stage:
        repository = open_repository(request.project)
        clone = create(folder, repository, name, include_dirty=request.include_dirty, remotes=request.remotes)
        stage.conclude(f"of {clone.record.repository}, on the branch bottle/{name}")
    for line in clone.missing:
        progress.note(f"{'clone':<8} {line}")
    return clone


def _bring_back(clone: Clone, progress: Progress, facts: dict[str, Any]) -> None:
    try:
        for line in report_work(clone, facts):
            progress.note(line)
    except BottleError as error:
        progress.warn(f"the bottle's work is still in {clone.work}: {error}")


def report_work(clone: Clone, facts: dict[str, Any]) -> list[str]:
    """Bring an ended bottle's work into the user's repository, put the result into `facts`, and describe it.

    Raises WorkspaceError.
    """
    clone, work = collect(clone, ended=True)
    counted = summary(clone, work)
    facts.update(base=work.base, result=work.head, branch=work.branch, uncommitted=work.uncommitted)
    facts.update(asdict(counted))
    return describe_work(clone, work, counted)


def describe_work(clone: Clone, work: Work, counted: Summary) -> list[str]:
    """Return a few lines that describe what a bottle has done."""
    name = clone.record.name
    lines = []
    if counted.commits:
        where = f"on the branch {work.branch}" if work.branch else f"at refs/bottle/{name}/head"
        lines.append(f"{human_count(counted.commits, 'commit')} {where}")
    if work.uncommitted:
        lines.append("uncommitted work is kept")
    if lines:
        lines.append(f"{human_count(counted.files, 'file')} changed, +{counted.added} -{counted.removed}")
        lines.append(f"see it with: bottle diff {name}; take it over with: bottle apply {name}")
    lines += [f"also kept: {reference}" for reference in work.others]
    lines += [f"not taken: {printable(line)}" for line in work.left]
    return [f"work     {line}" for line in lines or ["nothing was changed"]]
