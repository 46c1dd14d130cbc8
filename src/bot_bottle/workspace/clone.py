"""A private clone of a repository for one bottle, with its own history and branch.

A clone's folder has `work`, which the bottle sees and owns from then on, and beside it what only we write:
`clone.json` (what it was made from and what was fetched from it) and `index` (git's state of the files when
they were written, so that the agent's own index is not needed).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import asdict

from bot_bottle.errors import WorkspaceError
from bot_bottle.host.files import remove_tree, replace_file
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.text import is_printable, printable
from bot_bottle.structs import replace
from bot_bottle.workspace.filters import filters_of, is_pointer_file
from bot_bottle.workspace.git import Git, init, user_settings
from bot_bottle.workspace.index import list_entries
from bot_bottle.workspace.index_file import IndexFile
from bot_bottle.workspace.repository import Repository, open_repository
from bot_bottle.workspace.snapshot import snapshot

_VERSION = 1
_SHOWN = 3


class Record(Struct, frozen=True):
    """What a clone was made from, and what was fetched from it; all but the first part are commits."""

    name: str
    repository: str
    object_format: str
    base: str
    references: dict[str, str] = field(default_factory=dict)  # of the clone, when it was made
    packs: tuple[str, ...] = ()
    branch_at: str = ""  # where we left the user's branch
    head: str = ""
    uncommitted: str = ""
    applied: str = ""
    received: bool = False  # from another machine: there is no clone, all of its work is in the repository
    version: int = _VERSION

    @property
    def branch(self) -> str:
        """The branch in the clone, and in the user's repository once there are commits."""
        return f"refs/heads/bottle/{self.name}"

    @property
    def kept(self) -> str:
        """The prefix of the user's references to all that was fetched."""
        return f"refs/bottle/{self.name}/"


class Clone(Struct, frozen=True):
    """A clone in its folder. `missing` lists what the user's folder has that a new one lacks."""

    folder: Path
    record: Record
    missing: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """The folder that the bottle sees."""
        return self.folder / "work"

    @property
    def index_file(self) -> IndexFile:
        """The index that git has in it, while nobody has worked in it."""
        return IndexFile(self.work / ".git/index", self.record.object_format)

    def repository(self) -> Repository:
        """Return the user's repository that it was made from. Raises WorkspaceError when that is gone."""
        return open_repository(Path(self.record.repository))

    def with_record(self, **changes: str) -> Clone:
        """Return the clone with changes to its record, which are on the disk when this returns."""
        record = replace(self.record, **changes)  # type: ignore[arg-type]  # values are the commits
        _write(self.folder, record)
        return Clone(self.folder, record)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lock the clone and yield a folder to work in, which is empty at first and removed afterwards."""
        path = self.folder / "scratch"
        with exclusive_lock(self.folder / "lock", lambda: None):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
            try:
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)


def create(
    folder: Path,
    repository: Repository,
    name: str,
    *,
    include_dirty: bool = False,
    remotes: Mapping[str, str] | None = None,
) -> Clone:
    """Clone what is checked out in a repository into a new `folder`, onto a branch of the bottle's name.

    The clone has the history of that commit and the tags in it, and nothing else of the repository. With
    `include_dirty` it starts from a commit of the uncommitted changes. `remotes` are names and URLs of its
    remotes. On failure nothing of it remains. Raises WorkspaceError.
    """
    record = Record(name, str(repository.top), repository.object_format, "")
    before = check_names(repository, record)[0]
    folder.mkdir(mode=0o700, parents=True)
    try:
        with repository.explain_missing():
            made = _create(folder, repository, record, before, include_dirty=include_dirty)
        _configure(Git(made.work / ".git"), record.branch, remotes or {})
        return made
    except BaseException:
        with suppress(WorkspaceError):
            base = repository.references(f"{record.kept}base").get(f"{record.kept}base", "")
            repository.update({f"{record.kept}base": (base, before)})
        remove_tree(folder)
        raise


def _create(
    folder: Path, repository: Repository, record: Record, before: str, *, include_dirty: bool
) -> Clone:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        base, tags, filtered = find_start(repository, Path(scratch), include_dirty=include_dirty)
        source = repository.with_alternate(Path(scratch) / "source.git")
        repository.update({f"{record.kept}base": (before, base)})
        references = {record.branch: base, **tags}
        source.create_references(references)
        git = _filled(folder, source, record)
    shutil.copy2(git.folder / "index", folder / "index")  # git compares its time with those of the files
    packs = tuple(sorted(path.name for path in (git.folder / "objects/pack").glob("*.pack")))
    record = replace(record, base=base, references=references, packs=packs)
    _write(folder, record)
    return Clone(folder, record, _missing(git, filtered))


def find_start(
    repository: Repository, scratch: Path, *, include_dirty: bool
) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Return the commit that a bottle starts from, the tags in its history, and what filters would change.

    With `include_dirty` it is a new commit, which no reference names yet. Raises WorkspaceError.
    """
    head = repository.head()
    tags = repository.references(f"--merged={head}", "refs/tags")
    if not include_dirty:
        return head, tags, ()
    done = snapshot(
        replace(
            repository.with_shared_objects(scratch / "clean.git"),
            settings=repository.conversions,
        ),
        repository.top,
        head,
        repository.folder / "index",
        "Uncommitted work at the start",
        sparse=repository.is_sparse,
        users=True,
    )
    return done.commit, tags, done.filtered


def _missing(git: Git, filtered: Sequence[str]) -> tuple[str, ...]:
    """Return notes on what of the user's folder is not in a new clone, though git tracks it."""
    entries = list_entries(git)
    filters = filters_of(git, entries.files)
    lfs = [name for name, value in filters.items() if value == b"lfs" and is_pointer_file(git, name)]
    notes = []
    if lfs:
        notes.append(f"git LFS: {_some(lfs)} are pointers, without their content")
    if others := [name for name, value in filters.items() if value != b"lfs"]:
        notes.append(f"filters: {_some(others)} are as git stores them; no filter was run")
    if filtered:
        names = _some(map(os.fsencode, filtered))
        notes.append(f"filters: {names} are as they were committed, even if you changed them")
    if entries.submodules:
        notes.append(f"submodules: {_some(entries.submodules)} are empty folders")
    return tuple(notes)


def _some(names: Iterable[bytes]) -> str:
    """Return the first few names, and how many more there are."""
    shown = [printable(name) for name in sorted(names)]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def check_names(repository: Repository, *records: Record) -> list[str]:
    """Return the bases that earlier bottles of these names left, "" for none.

    Raises WorkspaceError if names are taken.
    """
    patterns = [pattern for record in records for pattern in (record.branch, record.kept[:-1])]
    there = repository.references("refs/heads/bottle", *patterns)
    bases = [there.pop(f"{record.kept}base", "") for record in records]
    for record in records:
        in_the_way = [ref for ref in there if ref in (record.branch, "refs/heads/bottle")]
        in_the_way += [ref for ref in there if ref.startswith((record.branch + "/", record.kept))]
        if in_the_way:
            shown = in_the_way[0].removeprefix("refs/heads/")
            raise WorkspaceError(
                f"{repository.top} has {shown} already",
                next_step="give another --name, or rename or delete it",
            )
    return bases


def _filled(folder: Path, source: Git, record: Record) -> Git:
    """Make the clone itself. git's transport copies the objects, so that no file is shared."""
    work = folder / "work"
    branch = record.branch.removeprefix("refs/heads/")
    init(work, record.object_format, "-b", branch)
    git = Git(work / ".git", work_tree=work)
    everything = ("refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*")
    options = ("-q", "--no-tags", "--update-head-ok", "--update-shallow", "--no-write-fetch-head")
    git.run("-c", "fetch.unpackLimit=1", "fetch", *options, source.folder, *everything)
    # an emulated host's share loses a file that is linked and then unlinked, which is git's usual way
    settings = {"gc.auto": "0", "core.createObject": "rename"}
    for key, value in {**_identity(record), **settings}.items():
        git.run("config", key, value)
    git.run("reset", "-q", "--hard")
    return git


def _configure(git: Git, branch: str, remotes: Mapping[str, str]) -> None:
    """Write remotes into the settings of a clone; the branch is pushed to the first."""
    short = branch.removeprefix("refs/heads/")
    for name, url in remotes.items():
        git.run("config", f"remote.{name}.url", url)
        git.run("config", f"remote.{name}.fetch", f"+refs/heads/*:refs/remotes/{name}/*")
        git.run("config", f"remote.{name}.tagOpt", "--no-tags")  # its tags are not work of the bottle
    for name in list(remotes)[:1]:
        git.run("config", f"branch.{short}.remote", name)
        git.run("config", f"branch.{short}.merge", branch)


def _identity(record: Record) -> dict[str, str]:
    """Return who commits in the clone: the user, as configured in the repository."""
    of_bottle = {"user.name": f"bottle {record.name}", "user.email": f"{record.name}@bottle.invalid"}
    return of_bottle | find_identity(Path(record.repository))


def find_identity(folder: Path) -> dict[str, str]:
    """Return the settings user.name and user.email of a repository, those that are set."""
    settings = user_settings(folder, r"^user\.(name|email)$", timeout=30)
    found = {key: value.strip() for key, value in settings.items()}
    return {key: value for key, value in found.items() if value and is_printable(value)}


def whole(folder: Path) -> bool:
    """Return whether a clone was completed. Nobody has worked in one that was not."""
    return os.path.lexists(folder / "clone.json")


def load(folder: Path) -> Clone:
    """Return the clone in a folder. Raises WorkspaceError if there is no complete one."""
    try:
        content = json.loads((folder / "clone.json").read_text())
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        return Clone(folder, Record(**{**content, "packs": tuple(content["packs"])}))
    except FileNotFoundError as error:
        raise WorkspaceError(
            f"the clone in {folder} was never finished, so nothing was done in it",
            next_step="bottle rm NAME removes it",
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(f"there is no clone in {folder}", why=str(error)) from error


def _write(folder: Path, record: Record) -> None:
    data = json.dumps(asdict(record)).encode()
    replace_file(folder / "clone.json", data, folder / "clone.json.partial")
