"""A bottle's clone for the time that the bottle runs, and the report on its work when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from bot_bottle.errors import BottleError, WorkspaceError
from bot_bottle.host.progress import Progress, human_count
from bot_bottle.host.text import printable
from bot_bottle.workspace.clone import Clone, create, load
from bot_bottle.workspace.fetch import Work, collect
from bot_bottle.workspace.open import clone_folder
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


@contextmanager
def cloned(
    folder: Path, request: Request, name: str, progress: Progress, facts: dict[str, Any]
) -> Iterator[Mount]:
    """Yield the mount of a new clone in a folder. However the block ends, its work is safe.

    It is brought into the user's repository; when that fails, the clone is kept and it is said. The result is
    put into `facts`.
    """
    clone = _made(folder, request, name, progress)
    try:
        yield Mount(clone.work, index=clone.index_file)
    finally:
        _bring_back(clone, progress, facts)


def _made(folder: Path, request: Request, name: str, progress: Progress) -> Clone:
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
