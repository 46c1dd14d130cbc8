"""A repository and a bottle's work as git bundles (gitformat-bundle(5)), for bottles on other machines.

The repository goes out as one file with what is checked out and its history; the work comes back as another.
That one is as hostile as what a bottle leaves here, and is checked in the same way before it is stored.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct, field

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.files import remove_tree
from bot_bottle.host.progress import human_bytes
from bot_bottle.structs import replace
from bot_bottle.workspace.clone import Clone, Record, check_names, find_identity, find_start
from bot_bottle.workspace.fetch import find_commits, set_references, transfer
from bot_bottle.workspace.git import FETCH_ONLY, Git, init
from bot_bottle.workspace.repository import OBJECT_ID, Repository, open_repository

_START = "refs/heads/bottle-start"
_LIMIT = 3600.0  # seconds
MOST_WORK = 10**9  # bytes
_TIP = re.compile(r"head|uncommitted|other/[A-Za-z0-9_-]{1,80}")
_MOST_TIPS = 102


class Origin(Struct, frozen=True):
    """What bottles on other machines start from: the commit `base` of the `repository` here.

    `tags` are those in its history, `identity` is who commits, `shallow` what git records of a shallow clone.
    The work of a bottle that comes back has `most` bytes at most.
    """

    repository: str
    object_format: str
    base: str
    tags: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    shallow: bytes = b""
    most: int = MOST_WORK


def write_repository(project: Path, scratch: Path, out: Path, *, include_dirty: bool) -> Origin:
    """Write what is checked out in a repository to the bundle `out`. Raises WorkspaceError."""
    repository = open_repository(project)
    with repository.explain_missing():
        base, tags, _ = find_start(repository, scratch, include_dirty=include_dirty)
        source = repository.with_alternate(scratch / "source.git")
        source.create_references({_START: base, **tags})
        source.run("bundle", "create", "-q", out, "--all")
    shallow = repository.common / "shallow"
    return Origin(
        str(repository.top),
        repository.object_format,
        base,
        tags,
        find_identity(repository.top),
        shallow.read_bytes() if shallow.is_file() else b"",
    )


def restore_repository(bundle: Path, folder: Path, origin: Origin) -> None:
    """Make a repository in a new folder of what `write_repository` has written. Raises WorkspaceError."""
    folder.mkdir(mode=0o700)
    init(folder, origin.object_format, "-b", _START.removeprefix("refs/heads/"))
    git = Git(folder / ".git", work_tree=folder)
    if origin.shallow:
        (git.folder / "shallow").write_bytes(origin.shallow)
    everything = (f"+{_START}:{_START}", "+refs/tags/*:refs/tags/*")
    git.run("fetch", "--update-head-ok", *FETCH_ONLY, bundle, *everything)
    for key, value in origin.identity.items():
        git.run("config", key, value)


def copy_repository(restored: Path, folder: Path) -> None:
    """Copy to a new folder what `restore_repository` has made; both have the same files of objects."""

    def place(source: str, target: str) -> None:
        if Path(source).is_relative_to(restored / ".git/objects"):  # git never changes those
            try:
                os.link(source, target)
                return
            except OSError:  # not every file system has hard links
                pass
        shutil.copy2(source, target)

    shutil.copytree(restored, folder, copy_function=place)


def write_work(repository: Repository, name: str, out: Path, most: int = MOST_WORK) -> dict[str, str]:
    """Write the work of a bottle that has ended to the bundle `out`, if there is any.

    Returns the commits by their names under refs/bottle/NAME/; none where the bottle did not get that far.
    Raises WorkspaceError where that is more than `most` bytes.
    """
    kept = f"refs/bottle/{name}/"
    there = repository.references(kept[:-1])
    base = there.pop(f"{kept}base", "")
    new = [reference for reference, commit in there.items() if commit != base]
    if new:
        git = replace(repository.git, limit=_LIMIT)
        size = int(git.run("rev-list", "--objects", "--disk-usage", *new, f"^{base}").text)
        if size > most:
            raise _too_large(name, most, size)
        git.run("bundle", "create", "-q", out, *new, f"^{base}")
        if (size := out.stat().st_size) > most:
            raise _too_large(name, most, size)
    return {reference.removeprefix(kept): commit for reference, commit in there.items()}


def _too_large(name: str, most: int, size: int) -> WorkspaceError:
    """Return the error of work that is larger than what is taken back."""
    return WorkspaceError(
        f"the commits of {name} are too large",
        why=f"they have {human_bytes(size)}, and --max-work allows {human_bytes(most)}",
        next_step="run it again with a larger --max-work, or let it commit less",
    )


def check_new(repository: Repository, names: Iterable[str]) -> None:
    """Refuse names of bottles whose references are in use. Raises WorkspaceError."""
    top = str(repository.top)
    check_names(repository, *(Record(name, top, repository.object_format, "") for name in names))


def receive_work(
    folder: Path, origin: Origin, name: str, tips: Mapping[str, str], bundle: Path | None
) -> Clone:
    """Bring a bottle's work from another machine into the user's repository, checked as that of one here.

    `folder` is new, and gets the record of what was received; `tips` are the commits as `write_work` returns
    them. Raises WorkspaceError for work that is not as it should be; then nothing has changed.
    """
    repository = open_repository(Path(origin.repository))
    _check_tips(tips)
    record = Record(name, origin.repository, origin.object_format, origin.base, received=True)
    check_names(repository, record)
    folder.mkdir(mode=0o700, parents=True)
    clone = Clone(folder, record)
    try:
        with clone.scratch() as scratch:
            if {*tips.values()} != {record.base}:  # else there is nothing new
                _take(repository, record, scratch, dict(tips), bundle)
            branch = set_references(repository, record, dict(tips))
        return clone.with_record(branch_at=branch, head=tips["head"], uncommitted=tips.get("uncommitted", ""))
    except BaseException:
        remove_tree(folder)
        raise


def _take(
    repository: Repository, record: Record, scratch: Path, tips: dict[str, str], bundle: Path | None
) -> None:
    """Bring the commits of a bundle into the user's store, once they have been checked."""
    intake = repository.with_alternate(scratch / "intake.git")
    if bundle is not None:
        intake.run("fetch", *FETCH_ONLY, bundle, f"+{record.kept}*:refs/received/*")
    if find_commits(intake, tips) != tips:
        raise WorkspaceError(f"the work of the bottle {record.name} is missing commits")
    intake.run("rev-list", "--objects", "--quiet", *tips.values(), "--not", record.base)
    transfer(intake, repository.with_shared_objects(scratch / "clean.git"), record, tips)


def _check_tips(tips: Mapping[str, str]) -> None:
    valid = all(_TIP.fullmatch(name) and OBJECT_ID.fullmatch(value) for name, value in tips.items())
    if not valid or "head" not in tips or len(tips) > _MOST_TIPS:
        raise WorkspaceError("a node returned what is not a bottle's work")
