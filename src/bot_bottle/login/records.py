"""Which logins the user has given: a private file for each in the state folder.

The value of an API key is in the keychain of `secret-tool` where there is one, else in that file. A login
that an agent has on this machine is not copied: the record only says that it is to be used.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from bot_bottle.errors import CommandError, SecretError
from bot_bottle.host import paths, process
from bot_bottle.host.files import read_regular
from bot_bottle.host.records import store_record
from bot_bottle.host.redact import Secret
from bot_bottle.secrets.reference import Reference, resolve

SERVICE = "bot-bottle"  # of our entries in the keychain

_TOOL = "secret-tool"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LIMIT = 1 << 20  # bytes of a record
_TIMEOUT = 60.0  # seconds; a keychain may ask the user

Form = Literal["key", "own"]


class Record(Struct, frozen=True):
    """A login: an API key for a variable, or the agent's own login on this machine.

    The key is the `value`, or in the keychain's entry `keychain`.
    """

    name: str
    form: Form
    variable: str = ""
    keychain: str = ""
    value: Secret | None = None

    def key(self) -> Secret:
        """Return the API key. Raises SecretError."""
        if self.value is not None:
            return self.value
        reference = Reference(self.variable, "keychain", self.keychain)
        return resolve([reference])[self.variable]


def folder() -> Path:
    """Return the folder of the records."""
    return paths.state_dir() / "logins"


def read(name: str) -> Record | None:
    """Return the login of this name, if there is one. Raises SecretError where it cannot be read."""
    path = _path(name)
    try:
        document: Any = json.loads(read_regular(path, _LIMIT)[0])
        form, variable = document["form"], document["variable"]
        keychain, value = document["keychain"], document["value"]
        good = form in ("key", "own") and all(isinstance(each, str) for each in (variable, keychain, value))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else "it is not what bottle wrote"
        raise _unusable(path, why) from error
    if not good:
        raise _unusable(path, "it is not what bottle wrote")
    return Record(name, form, variable, keychain, Secret(value) if value else None)


def stamp(name: str) -> tuple[int, int] | None:
    """Return what changes whenever a login is written; None if there is none."""
    try:
        status = _path(name).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def names() -> list[str]:
    """Return the names of all logins, sorted."""
    try:
        return sorted(path.stem for path in folder().iterdir() if path.suffix == ".json")
    except OSError:
        return []


def save_own(name: str) -> None:
    """Use the login that an agent has on this machine. Raises SecretError."""
    remove(name)
    _write(Record(name, "own"))


def save_reference(name: str, variable: str, keychain: str) -> None:
    """Use the API key in an entry of the user's keychain. Raises SecretError."""
    remove(name)
    _write(Record(name, "key", variable, keychain))


def save_key(name: str, variable: str, value: Secret) -> str:
    """Store an API key, and return where it is. Raises SecretError."""
    remove(name)
    if _store(name, value):
        _write(Record(name, "key", variable, f"{SERVICE}/{name}"))
        return "your keychain"
    _write(Record(name, "key", variable, value=value))
    return f"{_path(name)}, which only you can read"


def remove(name: str) -> bool:
    """Forget a login; return whether there was one. What an agent has on this machine stays."""
    try:
        keychain = found.keychain if (found := read(name)) is not None else ""
    except SecretError:
        keychain = ""
    if keychain == f"{SERVICE}/{name}" and process.find(_TOOL) is not None:
        with suppress(CommandError):
            argv = [_TOOL, "clear", "service", SERVICE, "username", name]
            process.run(argv, timeout=_TIMEOUT, check=False)
    path = _path(name)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _store(name: str, value: Secret) -> bool:
    """Put a value into the keychain; return False where there is none, or it does not work."""
    if process.find(_TOOL) is None:
        return False
    argv = [_TOOL, "store", f"--label=bottle login {name}", "service", SERVICE, "username", name]
    try:
        done = process.run(argv, timeout=_TIMEOUT, check=False, input=value.reveal().encode())
    except CommandError:
        return False
    return done.code == 0


def _write(record: Record) -> None:
    document = {
        "form": record.form,
        "variable": record.variable,
        "keychain": record.keychain,
        "value": "" if record.value is None else record.value.reveal(),
    }
    path = _path(record.name)
    store_record(path, document, SecretError, f"cannot store the login in {path.parent}")


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise SecretError("there is no login of this name", next_step="see bottle login")
    return folder() / f"{name}.json"


def _unusable(path: Path, why: str) -> SecretError:
    name = path.stem
    return SecretError(
        f"the login {name} cannot be read from {path}",
        why=why,
        next_step=f"bottle login {name} makes it anew",
    )
