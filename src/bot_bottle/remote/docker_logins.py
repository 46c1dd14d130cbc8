"""Logins of docker: the file `config.json`, and the credential helpers that it names.

Sources: docker CLI, "docker login" (credential stores, credential helpers); docker-credential-helpers, README
(the protocol of the programs).
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot_bottle.errors import CommandError, RegistryError
from bot_bottle.host import paths, process
from bot_bottle.host.files import read_regular
from bot_bottle.host.redact import Secret

_LIMIT = 1 << 20  # bytes
_HELPER_SECONDS = 30.0  # a keychain may ask the user
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DOCKER_HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # noqa: S105 - the user name that helpers give with an identity token
_ABSENT = "credentials not found"


@dataclass(frozen=True, slots=True)
class Login:
    """A user and the password, or an identity token, which has no user."""

    user: str
    secret: Secret = field(repr=False)

    @property
    def is_token(self) -> bool:
        """Whether the secret is an identity token (OAuth 2 refresh token)."""
        return self.user == _TOKEN_USER

    @property
    def basic(self) -> Secret:
        """The value of the header Authorization for it (RFC 7617)."""
        return Secret(f"Basic {base64.b64encode(f'{self.user}:{self.secret.reveal()}'.encode()).decode()}")


def find_login(host: str) -> Login | None:
    """Return docker's login for a registry; None without one. Raises RegistryError."""
    path = _file()
    document = _document(path) if path else {}
    key = _DOCKER_HUB if host in ("docker.io", "registry-1.docker.io", "index.docker.io") else host
    helper = _table(document, "credHelpers").get(host) or document.get("credsStore")
    if helper and (found := _of_helper(helper, key)):
        return found
    for name, entry in _table(document, "auths").items():
        if isinstance(entry, dict) and (name == key or _host_of(name) == host):
            return _of_entry(entry, path)
    return None


def _file() -> Path | None:
    given = os.environ.get("DOCKER_CONFIG")
    home = paths.home_dir()
    folder = Path(given) if given else home / ".docker" if home else None
    return folder / "config.json" if folder else None


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_regular(path.resolve(), _LIMIT)[0])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(path, "it is not a JSON document, or cannot be read") from error
    return document if isinstance(document, dict) else {}


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}


def _host_of(name: str) -> str:
    return re.sub(r"^https?://", "", name).partition("/")[0]


def _of_entry(entry: dict[str, Any], path: Path | None) -> Login | None:
    token, both = entry.get("identitytoken"), entry.get("auth")
    if isinstance(token, str) and token:
        return Login(_TOKEN_USER, Secret(token))
    if not isinstance(both, str) or not both:
        return None
    try:
        user, colon, password = base64.b64decode(both, validate=True).decode().partition(":")
    except ValueError as error:
        raise _unusable(path, "a login in it is not in base 64") from error
    return Login(user, Secret(password.rstrip("\0"))) if colon else None


def _of_helper(helper: object, server: str) -> Login | None:
    if not isinstance(helper, str) or not _NAME.fullmatch(helper):
        raise _unusable(_file(), "a credential helper in it has an invalid name")
    program = f"docker-credential-{helper}"
    try:
        done = process.run([program, "get"], input=server.encode(), timeout=_HELPER_SECONDS, check=False)
    except CommandError as error:
        raise RegistryError(
            f"the credential helper {program} did not work",
            why=error.message,
            next_step="install it, or correct credsStore and credHelpers in docker's config.json",
        ) from None
    if done.code:  # what it prints may contain a secret
        if _ABSENT in (done.stdout + done.stderr).decode("utf-8", "replace"):
            return None
        raise RegistryError(
            f"the credential helper {program} failed with exit status {done.code}",
            next_step=f"try `echo {server} | {program} get`",
        )
    try:
        document = json.loads(done.stdout)
        user, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(f"the credential helper {program} did not answer as one") from error
    if not isinstance(user, str) or not isinstance(secret, str):
        raise RegistryError(f"the credential helper {program} did not answer as one")
    return Login(user, Secret(secret)) if secret else None


def _unusable(path: Path | None, why: str) -> RegistryError:
    return RegistryError(
        f"docker's logins cannot be used: {path}", why=why, next_step="correct it, or log in again"
    )
