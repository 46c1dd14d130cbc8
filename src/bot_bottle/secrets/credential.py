"""Secrets that a bottle never has."""

from __future__ import annotations

from msgspec import Struct

from bot_bottle.host.redact import Renew, Secret


class Credential(Struct, frozen=True):
    """A value that a bottle never has: the proxy puts it into requests to these hosts for a placeholder.

    With `body` it is put into their bodies too. A value that may change while the bottle runs has `renew`.
    """

    value: Secret
    hosts: tuple[str, ...]
    body: bool = False
    renew: Renew | None = None
