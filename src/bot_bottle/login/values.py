"""The values of logins that are in force: what a bottle's proxy puts into requests.

An access token that is about to end is refreshed before it is used. Since that changes the refresh token,
only one process does it, with a lock on the login; others wait, and find the new token in the agent's file.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.errors import SecretError, SpecError
from bot_bottle.host.locks import exclusive_lock
from bot_bottle.host.redact import Renew, Secret, hide
from bot_bottle.login import own_file, records
from bot_bottle.login.own_file import OwnFile
from bot_bottle.login.records import Record
from bot_bottle.login.refresh import RefusedError, refreshed
from bot_bottle.secrets import reference as secrets
from bot_bottle.secrets import renewal
from bot_bottle.secrets.reference import Reference

if TYPE_CHECKING:  # most bottles have no login, and profiles take long to import
    from bot_bottle.agent.own_login import OwnLogin, Refresh
    from bot_bottle.agent.profile import Profile

_EARLY = 300.0  # seconds before its end in which an access token is refreshed
_PAUSE = 60.0  # seconds between two refreshes that only a server's refusal asks for, and after a failure

Warn = Callable[[str], None]


def allowed_hosts(reference: Reference) -> tuple[str, ...]:
    """Return the hosts that a login's value is for. Raises SpecError where there is no such value."""
    credential = _profile(reference.place).credentials.get(reference.name)
    if credential is None or credential.login != reference.place:
        raise SpecError(
            f"the login {reference.place} has no value for {reference.name}",
            next_step=f"see bottle agents show {reference.place}",
        )
    return tuple(credential.hosts)


def with_hosts(reference: Reference) -> Reference:
    """Return a reference with its login's hosts, if it names none. Raises SpecError for other hosts."""
    if reference.kind != "login":
        return reference
    hosts = allowed_hosts(reference)
    if other := [host for host in reference.hosts if host not in hosts]:
        raise SpecError(
            f"the secret {reference.name}: {other[0]} is not a host of the login {reference.place}",
            next_step=f"it is for {', '.join(hosts)}",
        )
    return Reference(
        reference.name, reference.kind, reference.place, reference.hosts or hosts, reference.body
    )


def variables(name: str) -> tuple[str, ...]:
    """Return the variables for which a login has values now; none if there is no such login."""
    try:
        record = records.read(name)
        if record is None:
            return ()
        if record.form == "key":
            return (record.variable,)
        login = login_of(name)
        found = own_file.read(name, login)
        return tuple(each for each, place in login.values.items() if found.text(place))
    except (SecretError, SpecError):
        return ()


def login_of(name: str) -> OwnLogin:
    """Return what a profile says of its agent's logins. Raises SpecError."""
    login = _profile(name).login
    if login is None:
        raise SpecError(f"the agent {name} has no login", next_step="add [login] to its profile")
    return login


def resolve(references: Iterable[Reference], warn: Warn) -> dict[str, Secret]:
    """Read every value, of logins too. Raises SecretError, SpecError."""
    found = {}
    for each in references:
        if each.kind == "login":
            found[each.name] = _Login(with_hosts(each), None, warn).first()
        else:
            found |= secrets.resolve([each])
    return found


def renewal_of(reference: Reference, value: Secret, warn: Warn) -> Renew | None:
    """Return what renews a value that was read before; None if it cannot change."""
    if reference.kind == "login":
        return _Login(reference, value, warn)
    return renewal.renewal(reference, value, warn)


class _Login:
    """The value of a login. While it cannot be had, the last one stays in force, which is said once."""

    def __init__(self, reference: Reference, value: Secret | None, warn: Warn) -> None:
        self._name, self._variable = reference.place, reference.name
        self._value = value
        self._warn = warn
        self._lock = threading.Lock()
        self._said = ""
        self._stamp: tuple[int, int] | None = None
        self._record: Record | None = None
        self._key: Secret | None = None
        self._dead = ""  # the hash of a refresh token that was refused
        self._not_before = 0.0  # until then only a token that ends is refreshed
        self._failed_until = 0.0
        self._failing = False

    def first(self) -> Secret:
        """Return the value at the start. Raises SecretError, SpecError."""
        return self._current(refused=False)

    def __call__(self, refused: bool) -> Secret:
        """Return the value in force."""
        with self._lock:
            self._failing = False
            try:
                value = self._current(refused=refused)
            except (SecretError, SpecError, OSError) as error:
                if self._value is None:
                    raise
                self._say(error)
                return self._value
            if not self._failing:
                self._said = ""
            self._value = value
            return value

    def _say(self, error: SecretError | SpecError | OSError) -> None:
        self._failing = True
        text = str(error)
        if isinstance(error, SecretError | SpecError):
            text = f"{error.message}{f': {error.why}' if error.why else ''}"
            text += f"; {error.next_step}" if error.next_step else ""
        if text != self._said:
            self._said = text
            self._warn(text)

    def _current(self, *, refused: bool) -> Secret:
        stamp = records.stamp(self._name)
        if stamp is None and self._value is not None:
            return self._value  # `bottle logout` does not take it away from bottles that run
        if stamp != self._stamp:
            self._record, self._stamp, self._key = records.read(self._name), stamp, None
        record = self._record
        if record is None:
            raise SecretError(
                f"there is no login {self._name}", next_step=f"use bottle login {self._name} first"
            )
        if record.form == "own":
            return self._own(login_of(self._name), refused=refused)
        if record.variable != self._variable:
            raise SecretError(
                f"the login {self._name} has no value for {self._variable}",
                why=f"it has one for {record.variable}",
            )
        if self._key is None:
            self._key = record.key()
        return self._key

    def _own(self, login: OwnLogin, *, refused: bool) -> Secret:
        found = own_file.read(self._name, login)
        if self._needs_refresh(found, login, refused=refused):
            found = self._renewed(login, refused=refused)
        place = login.values.get(self._variable)
        value = found.text(place) if place else ""
        if not value:
            raise SecretError(
                f"the login of {self._name} on this machine has no value for {self._variable}",
                why=f"it was read from {found.path}",
                next_step=f"log in with {self._name} again, or use bottle login {self._name} --key",
            )
        return Secret(value)

    def _needs_refresh(self, found: OwnFile, login: OwnLogin, *, refused: bool) -> bool:
        refresh = login.refresh
        if refresh is None or not found.text(refresh.refresh):
            return False
        ends = found.ends(login)
        if ends is not None and ends - time.time() < _EARLY:
            return True
        place = login.values.get(self._variable, ())
        same = self._value is not None and found.text(place) == self._value.reveal()
        return refused and same and time.monotonic() >= self._not_before

    def _renewed(self, login: OwnLogin, *, refused: bool) -> OwnFile:
        """Refresh the tokens, unless another process has done so meanwhile."""
        records.folder().mkdir(mode=0o700, parents=True, exist_ok=True)

        def due() -> bool:
            found = own_file.read(self._name, login)
            return self._needs_refresh(found, login, refused=refused)

        with (
            exclusive_lock(_lock_path(self._name), lambda: None),
            own_file.agents_lock(login, due) as ours,
        ):
            found = own_file.read(self._name, login)
            if login.refresh is None or not ours or not self._needs_refresh(found, login, refused=refused):
                return found
            return self._request(found, login, login.refresh)

    def _request(self, found: OwnFile, login: OwnLogin, refresh: Refresh) -> OwnFile:
        token = found.text(refresh.refresh)
        mark = hashlib.sha256(token.encode()).hexdigest()
        ends = found.ends(login)
        if mark == self._dead or time.monotonic() < self._failed_until:
            self._failing = True  # it has been said, and the server would say the same
            return found
        hide(token)
        self._not_before = time.monotonic() + _PAUSE
        try:
            answer = refreshed(self._name, refresh, token)
        except SecretError as error:
            self._failed_until = time.monotonic() + _PAUSE
            self._dead = mark if isinstance(error, RefusedError) else self._dead
            if self._value is None and (ends is None or ends <= time.time()):
                raise
            self._say(error)
            return found
        now = own_file.read(self._name, login)
        if now.text(refresh.refresh) != token:
            return now  # the agent itself was faster
        return own_file.write(now, refresh, answer)


def _profile(name: str) -> Profile:
    from bot_bottle.agent import profile

    return profile.load(name)


def _lock_path(name: str) -> Path:
    return records.folder() / f"{name}.lock"
