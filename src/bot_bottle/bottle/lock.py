"""bottle.lock: what a bottle was made of, pinned, and what differs from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from bot_bottle.cache.key import Change, Key
from bot_bottle.engine.bases import base_images, digest_of
from bot_bottle.engine.source import Source
from bot_bottle.errors import ImageError, SpecError
from bot_bottle.host.files import read_regular, replace_file
from bot_bottle.host.text import printable
from bot_bottle.image.spec import Digest
from bot_bottle.pack.converter import Conversion, Converter

NAME = "bottle.lock"

_LIMIT = 1 << 20  # bytes
_FORM = 1
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?\Z")


class Lock(Struct, frozen=True):
    """What is pinned: the artifact's digest and key, base images by name, agents' versions by name.

    The digest of a base image is "" where the engine does not know it.
    """

    artifact: Digest
    key: Key
    bases: dict[str, str]
    agents: dict[str, str]

    @classmethod
    def of(cls, source: Source, conversion: Conversion, converter: Converter) -> Lock:
        """Return the lock of an artifact that was just made or found."""
        names = base_images(source.build) if source.build is not None else []
        names += [source.image] if source.image is not None else []
        bases = {name: digest_of(converter.engine, name) for name in names}
        agents = {source.agent.name: source.agent.version} if source.agent else {}
        return cls(conversion.entry.digest, conversion.entry.key, bases, agents)

    def changes(self, new: Lock) -> list[Change]:
        """Return what differs in `new`. A base image's digest that is unknown on one side does not."""
        found = list(self.key.changes(new.key))
        if self.artifact != new.artifact:
            found.append(Change("artifact", str(self.artifact), str(new.artifact)))
        for name in dict.fromkeys([*self.bases, *new.bases]):
            old, now = self.bases.get(name), new.bases.get(name)
            if old is None or now is None or (old and now and old != now):
                found.append(Change(f"base image {name}", _shown(old), _shown(now)))
        for name in dict.fromkeys([*self.agents, *new.agents]):
            if self.agents.get(name) != new.agents.get(name):
                found.append(Change(f"agent {name}", self.agents.get(name, ""), new.agents.get(name, "")))
        return found

    def write(self, path: Path) -> None:
        """Write the file in one step. Raises SpecError."""
        document = {
            "form": _FORM,
            "artifact": str(self.artifact),
            "key": self.key.document(),
            "bases": self.bases,
            "agents": self.agents,
        }
        data = json.dumps(document, indent=2).encode() + b"\n"
        try:
            replace_file(path, data, path.with_name(f".{path.name}.partial"), 0o644)
        except OSError as error:
            raise SpecError(f"cannot write {path}", why=error.strerror or str(error)) from error

    @classmethod
    def read(cls, path: Path) -> Lock | None:
        """Read a file, which is untrusted; None without one. Raises SpecError."""
        try:
            document: Any = json.loads(read_regular(path, _LIMIT)[0])
            key = Key.parse(document["key"])
            if document["form"] != _FORM or key is None:
                raise ValueError("it is of another form")
            bases, agents = _texts(document["bases"]), _texts(document["agents"])
            if not all(map(_DIGEST.match, bases.values())):
                raise ValueError("a base image has an invalid digest")
            return cls(Digest(document["artifact"]), key, bases, agents)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ImageError) as error:
            why = printable(str(error) or repr(error), limit=200)
            raise SpecError(
                f"{path} cannot be read", why=why, next_step="remove it, and run bottle lock"
            ) from error


def read_pinned(path: Path) -> Lock:
    """Read the lock that a run has to be as. Raises SpecError, also where there is none."""
    if (pinned := Lock.read(path)) is None:
        raise SpecError(f"there is no {path}", next_step="bottle lock writes it")
    return pinned


def require_locked(
    pinned: Lock, path: Path, source: Source, conversion: Conversion, converter: Converter
) -> None:
    """Check that nothing differs from what a lock pins. Raises SpecError that says what does."""
    if changes := pinned.changes(Lock.of(source, conversion, converter)):
        raise SpecError(
            f"this bottle differs from {path}",
            why="\n".join(map(str, changes)),
            next_step="bottle lock --update shows and pins the difference",
        )


def _shown(digest: str | None) -> str:
    return "" if digest is None else digest or "unknown digest"


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("its base images or agents are not texts by name")
    return dict(value)
