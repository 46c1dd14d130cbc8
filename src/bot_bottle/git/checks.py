"""The checks of a push, on objects that git has received and not yet accepted.

They read hostile objects, so every list is read as a stream with a limit, and no command is used whose work
or memory can be out of proportion to what was sent: trees may contain the same folder millions of times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, BinaryIO

from msgspec import Struct

from bot_bottle.git.rules import PushRules
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed
from bot_bottle.host.text import printable
from bot_bottle.workspace.git import Git

HEADS = "refs/heads/"

_MOST_BRANCHES = 20  # of one push
_MOST_COMMITS = 10_000
_LONGEST_LINE = 1 << 16  # bytes; the parents of a commit, or the path of an object


class Refusal(Exception):
    """A push that is not accepted; the lines say why."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


class Update(Struct, frozen=True):
    """A reference that is to be changed; "" as a value means that there is none."""

    name: str
    old: str
    new: str

    @property
    def branch(self) -> str:
        """The name of the branch."""
        return self.name.removeprefix(HEADS)


def parse_updates(text: bytes) -> list[Update]:
    """Parse the standard input of a pre-receive hook (githooks(5)). Raises ValueError."""
    updates = []
    for line in text.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"):
        old, new, name = line.split(" ", 2)
        updates.append(Update(name, old.strip("0") and old, new.strip("0") and new))
    return updates


def check_references(updates: Sequence[Update], rules: PushRules) -> None:
    """Check which references are to be changed. Raises Refusal."""
    lines = []
    for update in updates:
        branch = printable(update.branch, limit=200)
        if not update.name.startswith(HEADS):
            lines.append(f"{printable(update.name, limit=200)}: only branches can be pushed")
        elif not update.new:
            lines.append(f"{branch}: a branch cannot be deleted")
        elif not rules.allows_branch(update.branch):
            lines.append(f"{branch}: this branch is not allowed; allowed: {', '.join(rules.branches)}")
    if len(updates) > _MOST_BRANCHES:
        lines = [f"the push has {len(updates)} branches; {_MOST_BRANCHES} is the most"]
    if lines:
        raise Refusal(*lines[:_MOST_BRANCHES])


def check_objects(git: Git, updates: Sequence[Update], current: Mapping[str, str], rules: PushRules) -> None:
    """Check commits and files that are new. `current` are the branches' commits. Raises Refusal.

    `git` reads the received objects too. Raises WorkspaceError where git fails.
    """
    lines = []
    for update in updates:
        branch = printable(update.branch, limit=200)
        if update.old != current.get(update.branch, ""):
            lines.append(f"{branch}: it has changed meanwhile; fetch first")
        elif git.run("cat-file", "-t", update.new).text != "commit":
            lines.append(f"{branch}: it is not a commit")
        elif update.old and not git.is_ancestor(update.old, update.new):
            lines.append(f"{branch}: it is not a fast-forward, and --force is not allowed")
    if lines:
        raise Refusal(*lines)
    tips = [update.new for update in updates]
    commits = _new_commits(git, tips)
    _check_paths(git, commits, rules.protected)
    if rules.secrets:
        from bot_bottle.git.secrets import check_secrets  # its library takes a while to load

        check_secrets(git, tips, commits)


def _new_commits(git: Git, tips: Sequence[str]) -> dict[str, list[str]]:
    """Return the commits that the remote does not have, and the parents of each. Raises Refusal."""
    found = {}
    with reading(git, "rev-list", "--parents", *tips, "--not", "--all") as lines:
        for line in islice(lines, _MOST_COMMITS + 1):
            commit, *parents = line.split()
            found[commit] = parents
    if len(found) > _MOST_COMMITS:
        raise Refusal(f"the push has more than {_MOST_COMMITS} new commits")
    return found


def _check_paths(git: Git, commits: Mapping[str, Sequence[str]], paths: Sequence[str]) -> None:
    """Check that no new commit has something at a protected path that none of its parents has there."""
    names = list(dict.fromkeys(each for commit, parents in commits.items() for each in (commit, *parents)))
    asked = [(name, path) for name in names for path in paths]
    entries: dict[tuple[str, str], str] = {}
    with (
        spooled(f"{name}:{path}\n".encode() for name, path in asked) as questions,
        reading(git, "cat-file", "--batch-check=%(objectname)", input=questions) as lines,
    ):
        for key, line in zip(asked, lines, strict=True):
            entries[key] = "" if line.endswith(" missing") else line
    changed: dict[str, str] = {}
    for commit, parents in commits.items():
        for path in paths:
            before = {entries[parent, path] for parent in parents} or {""}
            if entries[commit, path] not in before:
                changed.setdefault(path, commit)
    if changed:
        found = [f"{path}: this path is protected; {by[:12]} changes it" for path, by in changed.items()]
        raise Refusal(*found, "the user can allow it with git.paths in bottle.toml")


@contextmanager
def spooled(lines: Iterator[bytes]) -> Iterator[IO[bytes]]:
    """Yield an unnamed file with these lines, as the input of a program."""
    with tempfile.TemporaryFile() as file:
        for line in lines:
            file.write(line)
        file.seek(0)
        yield file


@contextmanager
def streaming(git: Git, *args: str, input: IO[bytes] | None = None) -> Iterator[BinaryIO]:
    """Yield the output of a git command. Raises Refusal where git fails: the objects are damaged."""
    try:
        with process.reading(git.argv(*args), env=git.environment(), cwd=git.folder, input=input) as stream:
            yield stream
    except CommandFailed as error:
        raise Refusal(f"git {args[0]}: {printable(error.done.complaint[-300:])}") from error


@contextmanager
def reading(git: Git, *args: str, input: IO[bytes] | None = None) -> Iterator[Iterator[str]]:
    """Yield the output of a git command as lines. Raises Refusal for one that is too long."""
    with streaming(git, *args, input=input) as stream:
        yield _lines(stream)


def _lines(stream: BinaryIO) -> Iterator[str]:
    while line := stream.readline(_LONGEST_LINE):
        if not line.endswith(b"\n"):
            raise Refusal("a line of git's output is too long: a path, or the parents of a commit")
        yield line[:-1].decode("utf-8", "surrogateescape")
