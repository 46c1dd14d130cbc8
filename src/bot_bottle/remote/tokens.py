"""Tokens of registries: a challenge is answered with a token that the registry's own service gives.

Sources: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 6750, 3
(the challenge), RFC 7617 (Basic).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from bot_bottle.errors import RegistryError
from bot_bottle.host.redact import Secret
from bot_bottle.host.text import printable
from bot_bottle.remote.docker_logins import Login
from bot_bottle.remote.reference import is_loopback

_CHALLENGE = re.compile(r"(?i)(?:^|,)\s*(bearer|basic)\s+")
_FIELD = re.compile(r'([a-z_]+)="([^"]{0,4000})"')
_USUAL_LIFE = 60.0  # seconds, where the service states none
_EARLY = 5.0  # seconds before its end in which a token is not used any more

Fetch = Callable[[str, str, bytes, Mapping[str, str]], tuple[int, bytes]]
"""Makes one request (method, URL, body, headers) that is not redirected; returns status and body."""


class Authorization(Struct, frozen=True):
    """The value of the header Authorization, and the monotonic time until which it is valid."""

    value: Secret
    until: float = float("inf")

    @property
    def valid(self) -> bool:
        """Whether it can be used now."""
        return time.monotonic() < self.until


def answer_challenge(
    host: str, header: str, login: Login | None, scope: str, fetch: Fetch, *, plain: bool
) -> Authorization:
    """Return the authorization that a registry's challenge asks for. Raises RegistryError.

    `scope` is what is needed if the challenge names none. With `plain` the service may be on the loopback,
    without TLS.
    """
    schemes = {found[1].lower(): header[found.end() :] for found in _CHALLENGE.finditer(header)}
    if "bearer" not in schemes:
        if "basic" not in schemes or login is None or login.is_token:
            raise _needs_login(host)
        return Authorization(login.basic)
    fields = dict(_FIELD.findall(schemes["bearer"]))
    realm = fields.get("realm", "")
    parts = urlsplit(realm)
    if parts.username is not None or not (
        parts.scheme == "https" or (plain and parts.scheme == "http" and is_loopback(realm))
    ):
        raise RegistryError(f"{host} asks for a token of a service that is not asked: it has no TLS")
    query = {"service": fields.get("service", ""), "scope": fields.get("scope") or scope}
    status, body = _ask(realm, query, login, fetch)
    if status in (401, 403) and login is None:
        raise _needs_login(host)
    if status in (401, 403) or (status == 400 and login):
        raise RegistryError(
            f"the login for {host} was refused",
            why=f"{parts.netloc} gave no token ({status})",
            next_step=f"docker login {host}",
        )
    token, life = _token(body) if status == 200 else ("", 0.0)
    if not token:
        raise RegistryError(f"{printable(parts.netloc, limit=200)} gave no token for {host} ({status})")
    return Authorization(Secret(f"Bearer {token}"), time.monotonic() + life - _EARLY)


def _ask(realm: str, query: Mapping[str, str], login: Login | None, fetch: Fetch) -> tuple[int, bytes]:
    if login is not None and login.is_token:
        form = {**query, "grant_type": "refresh_token", "client_id": "bot-bottle"}
        form["refresh_token"] = login.secret.reveal()
        return fetch(
            "POST", realm, urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
        )
    headers = {"Authorization": login.basic.reveal()} if login else {}
    joint = "&" if urlsplit(realm).query else "?"
    return fetch("GET", f"{realm}{joint}{urlencode(query)}", b"", headers)


def _token(body: bytes) -> tuple[str, float]:
    try:
        document = json.loads(body)
        token = document.get("token") or document.get("access_token") or ""
        life = document.get("expires_in") or _USUAL_LIFE
    except (ValueError, AttributeError, RecursionError):
        return "", 0.0
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        return "", 0.0
    if not isinstance(life, int | float) or not 0 < life < 1e7:
        life = _USUAL_LIFE
    Secret(token)  # hidden by itself, as errors may quote it without its scheme
    return token, max(float(life), 2 * _EARLY)


def _needs_login(host: str) -> RegistryError:
    return RegistryError(f"{host} requires a login", next_step=f"docker login {host}")
