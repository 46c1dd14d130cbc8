"""git, run so that the repository has no influence on it: no hook, setting, driver or other transport.

Settings name programs: fsmonitor, filters, merge drivers, hooks, ssh commands, remotes. So work on objects is
done in a new git folder of ours, with settings of ours, which uses the objects of another repository
(alternates). The few commands that must run in a repository itself (to read and write its references) run no
program that it could name, and get settings from us that override its own.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from msgspec import Struct, field

from bot_bottle.errors import DiskFullError, WorkspaceError
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed, Completed
from bot_bottle.host.text import printable_lines

_MINIMUM = (2, 32)  # GIT_CONFIG_GLOBAL, `apply --3way --cached`
_LIMIT = 3600.0  # seconds; to copy a large repository takes minutes
_NOWHERE = os.devnull

# the environment may name programs, settings and other repositories: none of it is used
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": _NOWHERE,
    "GIT_CONFIG_GLOBAL": _NOWHERE,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "file",  # goes over every protocol.*.allow
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOC_LIMIT": "2g",  # one object that claims to be larger is refused, not allocated
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
}
_SETTINGS = (
    f"core.hooksPath={_NOWHERE}",
    "core.fsmonitor=false",
    f"core.attributesFile={_NOWHERE}",
    f"core.excludesFile={_NOWHERE}",
    "core.quotePath=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "protocol.file.allow=always",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.directory=*",  # git's ownership check of settings, which are not used here anyway
)

# options of git fetch for a fetch that leaves nothing but references and their objects
FETCH_ONLY = ("-q", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a git process: ours, without what would change what git does."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # git starts its parts by name, maybe from inside a hostile folder
    search = [part for part in os.environ.get("PATH", os.defpath).split(":") if part.startswith("/")]
    return {**clean, "PATH": ":".join(search), **_ENVIRONMENT, **(extra or {})}


class Git(Struct, frozen=True):
    """git on one git folder.

    `objects` is the store it uses instead of its own, `settings` are more settings, as `KEY=VALUE`.
    """

    folder: Path
    work_tree: Path | None = None
    objects: Path | None = None
    index: Path | None = None
    limit: float = _LIMIT
    extra: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()

    def run(
        self,
        *args: str | Path,
        input: bytes | IO[bytes] = b"",
        output: IO[bytes] | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a git command and return its result. With `check`, raises WorkspaceError with git's message."""
        try:
            return process.run(
                self.argv(*args),
                timeout=self.limit,
                check=check,
                input=input,
                output=output,
                env=self.environment(),
                cwd=self.work_tree or self.folder,
            )
        except CommandFailed as error:
            raise _explained(error, str(args[0])) from error

    def lines(self, *args: str, check: bool = True) -> list[str]:
        """Run a git command and return its output as lines."""
        return self.run(*args, check=check).stdout.decode("utf-8", "surrogateescape").splitlines()

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Return whether a commit is part of another's history."""
        return self.run("merge-base", "--is-ancestor", older, newer, check=False).code == 0

    def create_references(self, references: Mapping[str, str]) -> None:
        """Create references with these values, all or none. Raises WorkspaceError if one is there already."""
        text = "".join(f"create {name}\0{value}\0" for name, value in references.items())
        self.run("update-ref", "--stdin", "-z", input=text.encode("utf-8", "surrogateescape"))

    def argv(self, *args: str | Path) -> list[str]:
        """Return the command line."""
        settings = [part for setting in (*_SETTINGS, *self.settings) for part in ("-c", setting)]
        return [program(), "--no-pager", *settings, *map(str, args)]

    def environment(self) -> dict[str, str]:
        """Return the environment."""
        names = {
            "GIT_DIR": self.folder,
            "GIT_WORK_TREE": self.work_tree,
            "GIT_OBJECT_DIRECTORY": self.objects,
            "GIT_INDEX_FILE": self.index,
        }
        paths = {name: str(path) for name, path in names.items() if path is not None}
        return environment({**self.extra, **paths})


def init(folder: Path, object_format: str, *args: str) -> Git:
    """Make a git folder with settings of ours and nothing else in it; bare unless `args` say otherwise."""
    made = Git(folder)
    options = ("-q", "--template=", f"--object-format={object_format}", *(args or ("--bare",)))
    try:
        process.run(made.argv("init", *options, folder), timeout=60, env=environment(), cwd=folder.parent)
    except CommandFailed as error:
        raise _explained(error, "init") from error
    return made


def program() -> str:
    """Find git. Raises WorkspaceError if it is not there."""
    found = process.find("git")
    if found is None:
        raise WorkspaceError("a clone as workspace needs git", next_step="install git")
    return str(found)


def check_version() -> None:
    """Raise WorkspaceError if git is too old to ignore the user's settings."""
    version = _version(program())
    found = re.search(r"(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < _MINIMUM:
        wanted = ".".join(map(str, _MINIMUM))
        raise WorkspaceError(f"a clone as workspace needs git {wanted} or newer", why=version[:100])


def user_settings(folder: Path, pattern: str, *, timeout: float) -> dict[str, str]:
    """Return the settings whose names match, as the user's own git has them in a folder; the last of each."""
    env = {key: value for key, value in environment().items() if not key.startswith("GIT_CONFIG_")}
    asked = [program(), "config", "-z", "--get-regexp", pattern]
    done = process.run(asked, timeout=timeout, check=False, env=env, cwd=folder)
    settings = done.stdout.decode("utf-8", "replace").split("\0")
    return {key: value for key, newline, value in (each.partition("\n") for each in settings) if newline}


@functools.cache
def _version(git: str) -> str:
    return process.run([git, "--version"], timeout=15, env=environment()).text


def _explained(error: CommandFailed, what: str) -> WorkspaceError | DiskFullError:
    words = printable_lines(error.done.complaint)[-2000:]
    if "No space left on device" in words:
        return DiskFullError("the disk is full", why=words, next_step="free some space, then try again")
    return WorkspaceError(f"git {what} failed", why=words or error.message)
