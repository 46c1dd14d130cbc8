"""What a repository's own bottle.toml requests beyond the defaults, and whether this user has granted it.

A grant is stored as a hash over the repository's folder and the whole request, so that any change is asked
about again, and an earlier request stays granted. Options and environment variables of the user need no
grant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.config.settings import Settings
from bot_bottle.errors import TrustError
from bot_bottle.host import paths
from bot_bottle.host.records import store_record
from bot_bottle.host.text import printable

# settings that reduce a bottle's isolation
_WIDENING = ("egress.", "secrets.", "ports", "git.")
_BUILD = ("image.secrets.", "image.ssh.")  # what a build of the file gets of this user

# what a setting requests, and what each item of a list does
_ALONE = {
    "egress.open": "have an unrestricted network",
    "git.secrets": "push without a search for secrets",
}
_EACH = {
    "agent": "{}",
    "ports": "be reached on 127.0.0.1, {}",
    "variables": "read the variable {} of your environment",
    "egress.allow": "reach {}",
    "egress.host_ports": "reach port {} of this machine",
    "git.push": "fetch from and push to the remote {}",
    "git.branches": "push the branches {}",
    "git.paths": "change {} in what it pushes",
}


class Request(Struct, frozen=True):
    """What a bottle.toml requests: settings by key. Empty, if it requests nothing."""

    project: Path
    asked: Mapping[str, Any]

    def describe(self) -> str:
        """Return what is requested, a line for each part."""
        lines = []
        for key, value in self.asked.items():
            if key == "workspace":
                lines.append(f"write to {self.project}, as your own files")
            elif key in _ALONE:
                lines.append(_ALONE[key])
            elif key == "cache.remote":
                lines.append(f"use artifacts that others have put into {_plain(value)}")
            elif key in _EACH:
                lines += [_EACH[key].format(_plain(item)) for item in value]
            elif key.startswith(_BUILD):
                what = "read the secret" if key.startswith(_BUILD[0]) else "use SSH as"
                lines.append(f"have its build {what} {_plain(key.split('.', 2)[2])}: {_plain(value)}")
            else:
                lines.append(f"{key.replace('.', ' ', 1)}: {_plain(value)}")
        return "\n".join(map(printable, lines))

    @property
    def digest(self) -> str:
        """The hash by which a grant is stored."""
        facts = {"project": str(self.project), "asked": dict(self.asked)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def requested_by_build(settings: Settings) -> Request:
    """Return what the file in force requests before an image is built.

    These are variables of this machine whose values it uses, and the secrets and SSH agents of its build,
    without those that options override.
    """
    asked = {
        key: str(each.value)
        for key, each in settings.items()
        if key.startswith(_BUILD) and each.origin == str(settings.file)
    }
    names = settings.of_file.get("variables")
    return Request(settings.project.resolve(), {**({"variables": names} if names else {}), **asked})


def requested_grants(
    settings: Settings,
    *,
    without: tuple[str, ...] = (),
    remotes: Mapping[str, str] | None = None,
    agent: Sequence[str] = (),
) -> Request:
    """Return what the file in force requests.

    `without` are the prefixes of keys that an option overrides, `remotes` the URLs of git's remotes, and
    `agent` is what an agent of the file gets.
    """
    asked = {
        key: value
        for key, value in settings.of_file.items()
        if key.startswith(_WIDENING) and not key.startswith(without) and (value or key == "git.secrets")
    }
    asked.pop("git.hold", None)  # it does not widen anything
    if asked.get("git.secrets"):
        del asked["git.secrets"]
    if "git.push" in asked:
        places = {name: f"{name} ({url})" for name, url in (remotes or {}).items()}
        asked["git.push"] = [places.get(name, name) for name in asked["git.push"]]
    if settings.file and settings["workspace"].origin == str(settings.file):
        asked |= {"workspace": "mount"} if settings.value("workspace") == "mount" else {}
    asked |= {"agent": list(agent)} if agent else {}
    return Request(settings.project.resolve(), asked)


def require_grant(request: Request, ask: Callable[[str], bool], *, yes: bool = False) -> None:
    """Check that all of it is granted: earlier, by `yes`, or now by what `ask` returns. Raises TrustError."""
    path = _place(request)
    if not request.asked or path.is_file():
        return
    question = f"{request.project} asks to\n" + "\n".join(
        f"  {line}" for line in request.describe().splitlines()
    )
    if not yes and not ask(question):
        raise TrustError(
            "bottle.toml requests access that you have not granted",
            why=request.describe(),
            next_step="if you trust it, use bottle run --yes once; --network none drops its hosts",
        )
    _remember(path, request)


def extend_grant(before: Request, after: Request, hosts: Sequence[str]) -> None:
    """Grant what a file requests since these hosts were added to its `egress.allow`, as the user has said.

    Nothing is granted where `before` was not, or where `after` requests anything else besides. Raises
    TrustError.
    """
    allowed = {"egress.allow": [*before.asked.get("egress.allow", ()), *hosts]}
    wanted = Request(before.project, {**before.asked, **allowed})
    if wanted.digest == after.digest and (not before.asked or _place(before).is_file()):
        _remember(_place(after), after)


def _place(request: Request) -> Path:
    return paths.state_dir() / "trust" / request.digest


def _remember(path: Path, request: Request) -> None:
    record = {"project": str(request.project), "asked": dict(request.asked)}
    store_record(path, record, TrustError, f"cannot store your grant in {path.parent}")


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text, limit=200)
