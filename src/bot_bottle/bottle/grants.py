"""What a repository's own bottle.toml asks for beyond its walls, and whether this user has granted it.

A grant is remembered by a hash over the repository's folder and all that it asked for, so that any change is
asked about again, and what was granted once is granted when it comes back. What the user says himself, in
options or the environment, needs no grant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot_bottle.config.settings import Settings
from bot_bottle.errors import TrustError
from bot_bottle.host import paths
from bot_bottle.host.files import write_private
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step
from bot_bottle.host.text import printable

# what widens a bottle's walls; everything else stays within them
_WIDENING = ("egress.", "secrets.", "ports")
_BUILD = ("image.secrets.", "image.ssh.")  # what a build of the file's gets of this user's


@dataclass(frozen=True, slots=True)
class Request:
    """What a bottle.toml asks for: settings by key. Empty, if it asks for nothing."""

    project: Path
    asked: Mapping[str, Any]

    def told(self) -> str:
        """Say what is asked for, a line for each part."""
        lines = []
        for key, value in self.asked.items():
            if key == "workspace":
                lines.append(f"write to {self.project}, as your own files")
            elif key == "egress.open":
                lines.append("reach everything: no walls")
            elif key == "ports":
                lines += [f"be reached on 127.0.0.1, {item}" for item in value]
            elif key == "variables":
                lines += [f"read the variable {_plain(name)} of your environment" for name in value]
            elif key.startswith(_BUILD):
                what = "read the secret" if key.startswith(_BUILD[0]) else "use SSH as"
                lines.append(f"have its build {what} {_plain(key.split('.', 2)[2])}: {_plain(value)}")
            elif key == "egress.allow":
                lines += [f"reach {item}" for item in value]
            else:
                lines.append(f"{key.replace('.', ' ', 1)}: {_plain(value)}")
        return "\n".join(map(printable, lines))

    @property
    def digest(self) -> str:
        """The hash that a grant is remembered by."""
        facts = {"project": str(self.project), "asked": dict(self.asked)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def requested_by_build(settings: Settings) -> Request:
    """Return what the file in force asks for before an image is built.

    These are variables of this machine that it takes the values of, and the build's secrets and SSH agents,
    without those that options override.
    """
    asked = {
        key: str(each.value)
        for key, each in settings.items()
        if key.startswith(_BUILD) and each.origin == str(settings.file)
    }
    names = settings.of_file.get("variables")
    return Request(settings.project.resolve(), {**({"variables": names} if names else {}), **asked})


def requested_grants(settings: Settings, *, without: str = "") -> Request:
    """Return what the file in force asks for; `without` is the beginning of keys that an option overrules."""
    asked = {
        key: value
        for key, value in settings.of_file.items()
        if key.startswith(_WIDENING) and value and not (without and key.startswith(without))
    }
    if settings.file and settings["workspace"].origin == str(settings.file):
        asked |= {"workspace": "mount"} if settings.value("workspace") == "mount" else {}
    return Request(settings.project.resolve(), asked)


def require_grant(request: Request, ask: Callable[[str], bool], *, yes: bool = False) -> None:
    """Hold that all of it was granted: earlier, by `yes`, or now by what `ask` gives. Raises TrustError."""
    path = paths.state_dir() / "trust" / request.digest
    if not request.asked or path.is_file():
        return
    question = f"{request.project} asks to\n" + "\n".join(f"  {line}" for line in request.told().splitlines())
    if not yes and not ask(question):
        raise TrustError(
            "the repository asks for what you have not granted",
            why=request.told(),
            next_step="if you trust it say bottle run --yes once; --network none leaves its hosts out",
        )
    _remember(path, request)


def _remember(path: Path, request: Request) -> None:
    record = {"project": str(request.project), "asked": dict(request.asked)}
    try:
        with defer_signals():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise TrustError(
            f"cannot remember what you granted in {path.parent}",
            why=str(error),
            next_step=next_step(error, "make it writable, or name another folder with BOT_BOTTLE_STATE_DIR"),
        ) from error


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text, limit=200)
