"""The repository that a bottle's git talks to: a bare one of ours, with what a remote has.

refs/heads/*           what the bottle sees, and pushes to
refs/tags/*            the remote's tags
refs/remote/heads/*    the remote's branches, hidden from the bottle
refs/remote/seen/*     what the branch of that name was set to by us, hidden from the bottle

A branch that is neither what it was set to, nor part of the remote's, is held: the bottle has pushed it, and
the user has not pushed it on. git receive-pack has a quarantine of its own in it, for objects that have not
been accepted; see its manual.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import BottleError
from bot_bottle.git.remotes import Remote
from bot_bottle.git.upstream import Upstream
from bot_bottle.host.files import remove_tree
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.text import printable
from bot_bottle.workspace.git import Git, init
from bot_bottle.workspace.repository import Repository, open_repository

_HEADS, _REMOTE, _SEEN = "refs/heads/", "refs/remote/heads/", "refs/remote/seen/"
_ALLOC = "512m"  # the largest piece of memory that git may allocate for what a bottle sent
_SHOWN = 21  # commits
_COMPLETE = "complete"  # a file in a repository that was made as a whole

# what a push may be, and how much memory it may take to receive it: see git-config(1)
_SETTINGS = {
    "core.bigFileThreshold": "16m",
    "core.deltaBaseCacheLimit": "64m",
    "core.logAllRefUpdates": "false",
    "http.getanyfile": "false",
    "http.receivepack": "true",
    "pack.threads": "1",
    "receive.advertisePushOptions": "false",
    "receive.autogc": "false",
    "receive.denyDeletes": "true",
    "receive.denyNonFastForwards": "true",
    "receive.fsckObjects": "true",
    "receive.unpackLimit": "1",
    "receive.updateServerInfo": "false",
    "transfer.hideRefs": "refs/remote",
    "uploadpack.allowFilter": "true",
}


class Quarantine(Struct, frozen=True):
    """The repository for a remote, in a folder that only the user can enter."""

    folder: Path
    remote: Remote

    @property
    def git(self) -> Git:
        """git in the repository, with settings of ours."""
        return Git(self.folder, extra={"GIT_ALLOC_LIMIT": _ALLOC})

    @property
    def upstream(self) -> Upstream:
        """The user's own git in the repository."""
        return Upstream(self.remote, self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the repository against other processes and threads of ours for the block."""
        with exclusive_lock(self.folder.with_suffix(".lock"), lambda: None):
            yield

    def refresh(self, *, keep_held: bool) -> None:
        """Fetch what the remote has; branches that are held stay as they are. Raises WorkspaceError.

        The caller has it locked.
        """
        self.upstream.fetch(f"+refs/heads/*:{_REMOTE}*", "+refs/tags/*:refs/tags/*")
        self._set_heads(self.held() if keep_held else {})

    def reset(self) -> None:
        """Set all branches to those of the remote. The caller has it locked."""
        self._set_heads({})

    def _set_heads(self, held: Mapping[str, str]) -> None:
        heads, remote, seen = (self.references(each) for each in (_HEADS, _REMOTE, _SEEN))
        changes: dict[str, tuple[str, str]] = {}
        for name in {*heads, *remote, *seen} - {*held}:
            changes[_HEADS + name] = (heads.get(name, ""), remote.get(name, ""))
            changes[_SEEN + name] = (seen.get(name, ""), remote.get(name, ""))
        self.update(changes)

    def held(self) -> dict[str, str]:
        """Return the commits that the bottle has pushed and the remote does not have, by their branches."""
        remote, seen = self.references(_REMOTE), self.references(_SEEN)
        return {
            name: commit
            for name, commit in self.references(_HEADS).items()
            if commit not in (seen.get(name), remote.get(name))
            and not (name in remote and self.git.is_ancestor(commit, remote[name]))
        }

    def summary(self, commit: str) -> list[str]:
        """Return the commits that pushing a held one adds, a line for each, the newest first."""
        ours = ("rev-list", "--oneline", f"--max-count={_SHOWN}", commit, "--not", f"--glob={_REMOTE}*")
        lines = [printable(line, limit=200) for line in self.git.lines(*ours)]
        return lines if len(lines) < _SHOWN else [*lines[:-1], "and more"]

    def forwarded(self, commits: dict[str, str]) -> None:
        """Record that the remote has these commits now, by their branches."""
        remote, seen = self.references(_REMOTE), self.references(_SEEN)
        changes = {_REMOTE + name: (remote.get(name, ""), commit) for name, commit in commits.items()}
        changes |= {_SEEN + name: (seen.get(name, ""), commit) for name, commit in commits.items()}
        self.update(changes)

    def references(self, prefix: str) -> dict[str, str]:
        """Return the objects of references, by their names after a prefix."""
        found = {}
        for line in self.git.lines("for-each-ref", "--format=%(objectname) %(refname)", prefix):
            value, _, name = line.partition(" ")
            found[name.removeprefix(prefix)] = value
        return found

    def update(self, changes: dict[str, tuple[str, str]]) -> None:
        """Set references from an old to a new value, all or none; "" means that there is none."""
        commands = []
        for name, (old, new) in changes.items():
            if new and new != old:
                commands.append(f"update {name}\0{new}\0{old}\0" if old else f"create {name}\0{new}\0")
            elif old and not new:
                commands.append(f"delete {name}\0{old}\0")
        if commands:
            text = "".join(commands).encode("utf-8", "surrogateescape")
            self.git.run("update-ref", "--stdin", "-z", input=text)


def open_quarantine(made: Quarantine, project: Path, hooks: Path, largest: int) -> None:
    """Make the repository for a remote if it is missing, and configure it. The caller has it locked.

    A new one starts with what the user's repository, which `project` is in, has of the remote, so that little
    has to be fetched. Pushes have `largest` bytes at most, and `hooks` is the folder of git's hooks for them.
    Raises WorkspaceError.
    """
    complete = made.folder / _COMPLETE
    if not complete.exists():
        repository = open_repository(project)
        remove_tree(made.folder)
        init(made.folder, repository.object_format)
        with suppress(BottleError):  # a partial or shallow one; then all is fetched
            _seed(made, repository)
        if head := made.upstream.head():
            made.git.run("symbolic-ref", "HEAD", head)
        complete.touch()
    _remove_leftovers(made.folder)
    settings = {**_SETTINGS, "receive.maxInputSize": str(largest), "core.hooksPath": str(hooks)}
    for key, value in settings.items():
        made.git.run("config", key, value)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of git left: locks, and objects that were not accepted."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    for pattern in ("objects/incoming-*", "objects/tmp_objdir-*"):
        for path in folder.glob(pattern):
            remove_tree(path)


def _seed(made: Quarantine, repository: Repository) -> None:
    """Copy what the user's repository has fetched of the remote, and nothing else of it."""
    prefix = f"refs/remotes/{made.remote.name}/"
    found = repository.references(prefix)
    found.pop(f"{prefix}HEAD", None)
    if not found or (repository.common / "shallow").exists():
        return
    with tempfile.TemporaryDirectory(dir=made.folder) as scratch:  # removed with it, if this is killed
        source = repository.with_alternate(Path(scratch) / "source.git")
        text = "".join(
            f"create {_HEADS}{name.removeprefix(prefix)}\0{value}\0" for name, value in found.items()
        )
        source.run("update-ref", "--stdin", "-z", input=text.encode("utf-8", "surrogateescape"))
        options = ("-q", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        made.git.run("fetch", *options, source.folder, f"+{_HEADS}*:{_REMOTE}*")
