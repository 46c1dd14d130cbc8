"""Which pushes of a bottle are accepted: the values of `[git]` in bottle.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from bot_bottle.errors import SpecError
from bot_bottle.host.text import is_printable, printable

BRANCHES = ("bottle/*",)
LARGEST = 256 << 20  # bytes of a push

# what runs where it is pushed, with rights that the bottle does not have
PROTECTED = (
    ".appveyor.yml",
    ".azure-pipelines.yml",
    ".buildkite",
    ".circleci",
    ".cirrus.yml",
    ".drone.yml",
    ".forgejo/workflows",
    ".gitea/workflows",
    ".github/actions",
    ".github/workflows",
    ".gitlab-ci.yml",
    ".semaphore",
    ".travis.yml",
    ".woodpecker",
    ".woodpecker.yml",
    "Jenkinsfile",
    "appveyor.yml",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
)
_PATTERN = re.compile(r"[^\s\\~^:?\[\x00-\x1f-][^\s\\~^:?\[\x00-\x1f]*")  # git-check-ref-format(1), and *
_MOST = 100  # patterns


class PushRules(Struct, frozen=True):
    """What may be pushed: branches that match a pattern, fast-forward, of at most `largest` bytes.

    `paths` are those of PROTECTED that may be changed all the same. With `hold` nothing is pushed on before
    the user does it; with `secrets` new files and messages are searched for secrets.
    """

    branches: tuple[str, ...] = BRANCHES
    paths: tuple[str, ...] = ()
    hold: bool = False
    secrets: bool = True
    largest: int = LARGEST

    def allows_branch(self, name: str) -> bool:
        """Return whether a branch may be pushed."""
        return any(fnmatchcase(name, pattern) for pattern in self.branches)

    @property
    def protected(self) -> tuple[str, ...]:
        """The paths that may not be changed."""
        return tuple(path for path in PROTECTED if path not in self.paths)

    def described(self) -> dict[str, Any]:
        """Return the rules as a JSON document, which `load_rules` reads."""
        return asdict(self)


def load_rules(document: Mapping[str, Any]) -> PushRules:
    """Read a document that `described` made."""
    lists = {name: tuple(document[name]) for name in ("branches", "paths")}
    return PushRules(**{**document, **lists})


def make_rules(
    branches: Sequence[str] = (), paths: Sequence[str] = (), *, hold: bool = False, secrets: bool = True
) -> PushRules:
    """Return the rules of a configuration; without `branches` these are BRANCHES. Raises SpecError."""
    for pattern in branches:
        if not _PATTERN.fullmatch(pattern) or not is_printable(pattern) or pattern.startswith("refs/"):
            raise SpecError(
                f"git.branches: invalid pattern of a branch: {printable(pattern, limit=60)}",
                next_step="write it as bottle/* or agent-work",
            )
    unknown = [path for path in paths if path not in PROTECTED]
    if unknown:
        raise SpecError(
            f"git.paths: {printable(unknown[0], limit=60)} is not a protected path",
            why=f"these are: {', '.join(PROTECTED)}",
            next_step="remove it: other paths may be changed anyway",
        )
    if len(branches) > _MOST:
        raise SpecError(f"git.branches has {len(branches)} patterns; {_MOST} is the most")
    return PushRules(tuple(branches) or BRANCHES, tuple(paths), hold, secrets)
