"""A profile: what is to be known of one agent, as data. Ours are TOML files in `profiles/`.

A user's own are `agents/NAME.toml` in the user's configuration folder, in the same form. With `extends` a
profile begins as another one: its tables are merged into that, and its lists replace those of the other.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bot_bottle.agent.own_login import OwnLogin
from bot_bottle.errors import SpecError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.text import is_printable, printable

VERSION = "{version}"
PROMPT, ARGUMENTS = "{prompt}", "{args}"

Arch = Literal["amd64", "arm64"]
Libc = Literal["glibc", "musl"]
Kind = Literal["key", "token"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_PACKAGE = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,99}")
INTEGRITY = re.compile(r"sha512-[A-Za-z0-9+/]{86}==")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_LIMIT = 1 << 20  # bytes of a file
_SHOWN = 5  # mistakes reported at once
_SUFFIX = ".toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Package(_Table):
    """`[[packages]]`: an npm package, and for which images it is: for all where it names nothing.

    `{version}` in its version is that of the agent. Its files go to `folder` in the agent's own folder, where
    the program is, whose arguments begin with files there; so are folders that PATH ends with.
    """

    name: str
    integrity: str
    version: str = VERSION
    arch: Arch | None = None
    libc: Libc | None = None
    folder: str = ""
    program: list[str] = []
    path: list[str] = []

    @property
    def key(self) -> str:
        """NAME@VERSION, as npm writes it."""
        return f"{self.name}@{self.version}"

    def in_version(self, version: str) -> Package:
        """Return it with this version of the agent in its own."""
        return self.model_copy(update={"version": self.version.replace(VERSION, version)})

    def with_integrity(self, integrity: str) -> Package:
        """Return it with another hash, or without one ("")."""
        return self.model_copy(update={"integrity": integrity})

    @field_validator("name")
    @classmethod
    def _is_package(cls, name: str) -> str:
        return _matched(name, _PACKAGE, "not the name of a package")

    @field_validator("version")
    @classmethod
    def _is_version(cls, version: str) -> str:
        _matched(version.replace(VERSION, "0"), _VERSION, "not a version")
        return version

    @field_validator("integrity")
    @classmethod
    def _is_integrity(cls, integrity: str) -> str:
        return _matched(integrity, INTEGRITY, "not sha512- and 64 bytes in base64")

    @field_validator("folder")
    @classmethod
    def _is_inside(cls, folder: str) -> str:
        return _inside(folder) if folder else folder

    @field_validator("program", "path")
    @classmethod
    def _are_inside(cls, files: list[str]) -> list[str]:
        return [_inside(each) for each in files]


class Credential(_Table):
    """`[credentials.VARIABLE]`: a secret for requests to `hosts`; the guest's variable has a placeholder.

    The value is that of the login `login`, if there is one of this kind, or of the variable `env` of the user
    (default: of the same name). Where the credential `unless` is there this one is left out.
    """

    hosts: list[str] = Field(min_length=1)
    login: str = ""
    kind: Kind = "key"
    env: str = ""
    unless: str = ""


class Seed(_Table):
    r"""`[seed."PATH"]`: a file of $HOME that is written before the agent starts, where it is missing.

    `${NAME}` in its content is the value of a variable, `${NAME: -N}` its last N characters. It is not
    written without the variables in `needs`. With `instead` it is another content of the file of that name.
    """

    content: str
    needs: list[str] = []
    instead: str = ""

    @field_validator("instead")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        return _inside(path) if path else path


class Profile(_Table):
    """One agent. `{prompt}` and `{args}` in its arguments are the prompt and the user's own arguments."""

    name: str = ""
    about: str = ""
    extends: str | None = None
    version: str
    release: str
    packages: list[Package] = Field(min_length=1)
    command: list[str] = []
    headless: list[str] = []
    headless_json: list[str] = []
    image: str | None = None
    hosts: list[str] = []
    state: list[str] = []
    credentials: dict[str, Credential] = {}
    env: dict[str, str] = {}
    seed: dict[str, Seed] = {}
    login: OwnLogin | None = None

    @field_validator("version")
    @classmethod
    def _is_version(cls, version: str) -> str:
        return _matched(version, _VERSION, "not a version")

    @field_validator("release")
    @classmethod
    def _is_package(cls, name: str) -> str:
        return _matched(name, _PACKAGE, "not the name of a package")

    @field_validator("state")
    @classmethod
    def _are_inside(cls, files: list[str]) -> list[str]:
        return [_inside(each) for each in files]

    @field_validator("credentials", "env")
    @classmethod
    def _are_variables(cls, table: dict[str, Any]) -> dict[str, Any]:
        for name in table:
            _matched(name, _VARIABLE, "not the name of a variable")
        return table

    @field_validator("seed")
    @classmethod
    def _are_files(cls, table: dict[str, Seed]) -> dict[str, Seed]:
        for path in table:
            _inside(path)
        return table


def _matched(text: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{printable(text, limit=80)!r} is {what}")
    return text


def _inside(path: str) -> str:
    """Return a relative path without `..` and odd characters. Raises ValueError."""
    parts = path.split("/")
    if not is_printable(path) or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{printable(path, limit=80)!r} does not name something in its folder")
    return path


def own_folder() -> Path:
    """Return the folder of the user's own profiles."""
    return paths.config_dir() / "agents"


@cache
def shipped_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with bottle, sorted."""
    files = (file.name for file in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def names() -> list[str]:
    """Return the names of all profiles, sorted."""
    try:
        own = [path.stem for path in own_folder().iterdir() if path.suffix == _SUFFIX]
    except OSError:
        own = []
    return sorted({*shipped_names(), *(name for name in own if _NAME.fullmatch(name))})


def load(name: str) -> Profile:
    """Return a profile by its name; the user's own is before ours. Raises SpecError."""
    document, place = _joined(name, ())
    return _checked(document, name, place)


def is_version(text: str) -> bool:
    """Return whether a text may be the version of a package."""
    return bool(_VERSION.fullmatch(text))


def is_own(name: str) -> bool:
    """Return whether the profile of this name is one of the user's."""
    return _own_path(name).is_file()


def _joined(name: str, seen: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """Return a profile's document, merged into the one that it extends, and where it is from."""
    own = bool(_NAME.fullmatch(name)) and is_own(name) and name not in seen
    if not own and name not in shipped_names():
        raise SpecError(
            f"there is no agent {printable(name, limit=40)!r}",
            next_step=f"use one of {', '.join(names())}, or write {own_folder() / 'NAME.toml'}",
        )
    place = str(_own_path(name)) if own else f"the profile {name}"
    document = _parsed(_own_text(name) if own else _shipped_text(name), place)
    parent = document.get("extends")
    if parent is None:
        return document, place
    if not isinstance(parent, str) or not own or (parent in seen and parent not in shipped_names()):
        raise SpecError(f"{place}: extends has to name another agent, and none that extends this one")
    below, _ = _joined(parent, (*seen, name))
    return _merged(below, document), place


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        found[key] = _merged(under or {}, value) if both else value
    return found


def _checked(document: Mapping[str, Any], name: str, place: str) -> Profile:
    try:
        return Profile.model_validate({**document, "name": name})
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
    why = [
        f"{printable('.'.join(map(str, each['loc'])), limit=80)}: "
        + ("no such key" if each["type"] == "extra_forbidden" else each["msg"].removeprefix("Value error, "))
        for each in mistakes
    ]
    more = [f"and {len(why) - _SHOWN} more"] if len(why) > _SHOWN else []
    raise SpecError(
        f"{place} cannot be used", why="\n".join(why[:_SHOWN] + more), next_step=f"correct {place}"
    )


def _parsed(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SpecError(f"{place} is not TOML", why=str(error), next_step=f"correct {place}") from error


def _own_path(name: str) -> Path:
    return own_folder() / f"{name}{_SUFFIX}"


def _own_text(name: str) -> str:
    path = _own_path(name)
    try:
        return read_regular(path, _LIMIT)[0].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}", why=str(error)) from error


def _shipped() -> Any:
    return resources.files(f"{__package__}.profiles")


def _shipped_text(name: str) -> str:
    text: str = _shipped().joinpath(name + _SUFFIX).read_text("utf-8")
    return text
