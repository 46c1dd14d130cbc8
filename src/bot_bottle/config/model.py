"""The keys of bottle.toml, their types, and what to say of a file that has others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bot_bottle.errors import SpecError

_SHOWN = 5  # mistakes told at once


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ImageTable(_Table):
    """`[image]`: what is built, or the name of an image that is there already.

    Paths are relative to the folder of the file and stay in it.
    """

    name: str | None = None
    context: str | None = None
    dockerfile: str | None = None
    target: str | None = None
    args: dict[str, str] = {}


class EgressTable(_Table):
    """`[egress]`: what a bottle may reach. Entries are read by `egress.rules`."""

    allow: list[str] = []
    open: bool | None = None


class SecretTable(_Table):
    """`[secrets.NAME]`: where a secret's value is, which is one of the three, and which hosts may have it."""

    env: str | None = None
    file: str | None = None
    keychain: str | None = None
    hosts: list[str] = []


class File(_Table):
    """A whole bottle.toml. What it leaves out is None or empty."""

    image: ImageTable = ImageTable()
    backend: str | None = None
    workspace: str | None = None
    command: list[str] | None = None
    cpus: int | None = None
    memory: str | None = None
    user: str | None = None
    workdir: str | None = None
    env: dict[str, str] = {}
    ports: list[str] = []
    egress: EgressTable = EgressTable()
    secrets: dict[str, SecretTable] = {}


def parse(document: Mapping[str, Any], place: str) -> File:
    """Check a document's keys and types. Raises SpecError, with every mistake's place and what was meant.

    Values are never repeated in the error: a file may hold what is not to be shown.
    """
    try:
        return File.model_validate(dict(document))
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
    why = [_told([str(part) for part in each["loc"]], each["type"], each["msg"]) for each in mistakes]
    if len(why) > _SHOWN:
        why[_SHOWN:] = [f"and {len(why) - _SHOWN} more"]
    raise SpecError(f"{place} cannot be used", why="\n".join(why), next_step=f"correct {place}")


def _told(loc: list[str], kind: str, message: str) -> str:
    key = printable(".".join(loc))
    if loc[0] == "secrets" and len(loc) == 2:
        return f"{key}: a value is never written here; say where it is, with one of env, file and keychain"
    if kind != "extra_forbidden":
        return f"{key}: {message[:1].lower()}{message[1:]}"
    if loc[0] == "secrets" and len(loc) > 1:
        return f"{key}: no such key; known are {', '.join(SecretTable.model_fields)}"
    known = [*File.model_fields]
    for table, fields in (("image", ImageTable.model_fields), ("egress", EgressTable.model_fields)):
        known += [f"{table}.{name}" for name in fields]
    meant = difflib.get_close_matches(key, known, n=1, cutoff=0.55)
    suggestion = f"did you mean {meant[0]}?" if meant else f"known are {', '.join(known)}"
    return f"{key}: no such key; {suggestion}"


def printable(text: str) -> str:
    """Give a key or name for a message: short, on one line, without control characters."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:80])
    return shown + ("..." if len(text) > 80 else "")
