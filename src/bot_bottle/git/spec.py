"""What a bottle may push: the remotes of the user's repository, and the rules for pushes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.git.rules import PushRules

if TYPE_CHECKING:
    from bot_bottle.git.remotes import Remote

_NO_RULES = PushRules()


class GitPush(Struct, frozen=True):
    """The remotes of a bottle, none by default. `project` is in the user's repository."""

    project: Path = Path()
    remotes: tuple[Remote, ...] = ()
    rules: PushRules = _NO_RULES

    def described(self) -> dict[str, Any]:
        """Return a JSON document for the user, without credentials; {} without remotes."""
        if not self.remotes:
            return {}
        rules = self.rules
        return {
            "push": {remote.name: remote.shown for remote in self.remotes},
            "branches": list(rules.branches),
            "paths": list(rules.paths),
            "hold": rules.hold,
            "secrets": rules.secrets,
        }
