"""Requests for new access tokens (RFC 6749, section 6)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from bot_bottle.errors import SecretError, SpecError
from bot_bottle.host.redact import hide
from bot_bottle.host.text import is_printable, printable

if TYPE_CHECKING:
    from bot_bottle.agent.own_login import Refresh

_SECONDS = 20.0
_OK = 200
_REFUSED = (400, 401, 403)


class RefusedError(SecretError):
    """The server does not take the refresh token, and will not later either."""

    exit_code = SecretError.exit_code


def refreshed(name: str, refresh: Refresh, token: str) -> dict[str, Any]:
    """Return the answer to a request with a refresh token. Raises RefusedError, SecretError."""
    from bot_bottle.network.https import post  # takes long to import

    parameters = {"grant_type": "refresh_token", "refresh_token": token, "client_id": refresh.client_id}
    parameters |= refresh.more
    if refresh.form == "json":
        kind, body = "application/json", json.dumps(parameters)
    else:
        kind, body = "application/x-www-form-urlencoded", urlencode(parameters)
    host = urlsplit(refresh.url).hostname
    try:
        status, data = post(refresh.url, body.encode(), {"Content-Type": kind}, seconds=_SECONDS)
    except (OSError, SpecError) as error:
        raise SecretError(f"the login of {name} could not be refreshed", why=f"{host}: {error}") from error
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if status in _REFUSED:
        raise RefusedError(
            f"the login of {name} has ended",
            why=f"{host} refused to refresh it ({status}{_reason(answer)})",
            next_step=f"log in with {name} on this machine again, or use bottle login {name} --key",
        )
    if status != _OK or not isinstance(answer, dict) or not _is_token(answer.get("access_token")):
        raise SecretError(
            f"the login of {name} could not be refreshed", why=f"{host} answered with status {status}"
        )
    for key in ("access_token", "refresh_token", "id_token"):
        if isinstance(answer.get(key), str):
            hide(answer[key])
    return answer


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 << 10 and value.isascii() and is_printable(value)


def _reason(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return f", {printable(error, limit=60)}" if isinstance(error, str) else ""
