"""An agent's own file with its login on this machine: read, and written after a refresh, as the agent does.

Nothing of it is copied: a refresh changes the refresh token, and a second copy would be worthless, or make
the agent's own worthless.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.errors import SecretError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular, replace_file

if TYPE_CHECKING:
    from bot_bottle.agent.own_login import OwnLogin, Refresh

_LIMIT = 1 << 20  # bytes
_STALE = 60.0  # seconds after which an agent's lock is one of a process that was killed
_PAUSE = 0.1
_WAIT = 30.0  # seconds for an agent's lock


class OwnFile(Struct, frozen=True):
    """The content of an agent's file."""

    path: Path
    document: Any

    def text(self, place: Sequence[str]) -> str:
        """Return a text of it; "" if it has none there."""
        found = _at(self.document, place)
        return found if isinstance(found, str) else ""

    def ends(self, login: OwnLogin) -> float | None:
        """Return when the access token ends, in seconds since 1970; None if that is not said."""
        if login.refresh is None:
            return None
        if not login.refresh.expires:
            return _end_of_token(self.text(login.refresh.access))
        found = _at(self.document, login.refresh.expires)
        return found / 1000 if isinstance(found, int | float) else None


def path_of(login: OwnLogin) -> Path | None:
    """Return where an agent's file is, whether or not it exists; None if it has none, or nobody a home."""
    if not login.file:
        return None
    named = os.environ.get(login.variable, "") if login.variable else ""
    home = paths.home_dir()
    if named.startswith("/"):
        return Path(named, login.file)
    return None if home is None else home / login.folder / login.file


def read(name: str, login: OwnLogin) -> OwnFile:
    """Read an agent's file. Raises SecretError, which never has anything of it."""
    path = path_of(login)
    if not login.file:
        raise SecretError(
            f"bottle cannot use the own login of {name}",
            why="it can only use an API key",
            next_step=f"give one: bottle login {name} --key",
        )
    try:
        if path is None:
            raise FileNotFoundError
        path = path.resolve()  # it is the user's own, and may be a link to where they store their settings
        document = json.loads(read_regular(path, _LIMIT)[0])
    except FileNotFoundError:
        raise SecretError(
            f"{name} has no login on this machine",
            why=f"there is no {path or 'home folder'}",
            next_step=f"log in with {name} itself, or give an API key: bottle login {name} --key",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror or str(path) if isinstance(error, OSError) else "it is not JSON"
        raise SecretError(f"the login of {name} cannot be read from {path}", why=why) from None
    return OwnFile(path, document)


def write(before: OwnFile, refresh: Refresh, answer: dict[str, Any]) -> OwnFile:
    """Put the tokens of an answer in their places. Raises OSError.

    The agent's file is only changed in these places. A refresh token that is not in the answer stays.
    """
    document = json.loads(json.dumps(before.document))
    _put(document, refresh.access, answer["access_token"])
    if isinstance(answer.get("refresh_token"), str):
        _put(document, refresh.refresh, answer["refresh_token"])
    if refresh.id and isinstance(answer.get("id_token"), str):
        _put(document, refresh.id, answer["id_token"])
    if refresh.expires and isinstance(answer.get("expires_in"), int | float):
        _put(document, refresh.expires, int((time.time() + answer["expires_in"]) * 1000))
    if refresh.time:
        _put(document, refresh.time, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    mode = before.path.stat().st_mode & 0o777
    partial = before.path.with_name(f".{before.path.name}.bottle")
    replace_file(before.path, (json.dumps(document, indent=2) + "\n").encode(), partial, mode)
    return OwnFile(before.path, document)


@contextmanager
def agents_lock(login: OwnLogin, lasts: Callable[[], bool]) -> Iterator[bool]:
    """Take the agent's own lock for the block, while `lasts` returns true; yield whether we have it.

    It is a folder, which the agent makes (mkdir(2)), and whose time it changes for as long as it has it.
    """
    path = path_of(login)
    if not login.lock or path is None:
        yield True
        return
    folder = path.parent / login.lock
    deadline = time.monotonic() + _WAIT
    while not (taken := _taken(folder)) and lasts() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    try:
        yield taken
    finally:
        if taken:
            with suppress(OSError):
                folder.rmdir()


def _taken(folder: Path) -> bool:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        return True
    with suppress(OSError):
        if time.time() - folder.stat().st_mtime > _STALE:
            folder.rmdir()
    return False


def _at(document: Any, place: Sequence[str]) -> Any:
    for key in place:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _put(document: Any, place: Sequence[str], value: Any) -> None:
    *folders, last = place
    for key in folders:
        document = document.setdefault(key, {})
    document[last] = value


def _end_of_token(token: str) -> float | None:
    """Return when a JSON web token ends (RFC 7519, section 4.1.4); None if it does not say so."""
    parts = token.split(".")
    with suppress(ValueError, binascii.Error, RecursionError):
        if len(parts) == 3:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            end = claims.get("exp") if isinstance(claims, dict) else None
            return float(end) if isinstance(end, int | float) else None
    return None
