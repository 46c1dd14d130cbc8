"""Secrets that a bottle never holds: it has a placeholder, and the way out puts the value in.

Only in the headers of HTTPS requests to the hosts that the secret is for. The bottle trusts an authority of
its own run, whose key stays outside, so that these requests can be read on their way; others pass unread.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bot_bottle.host.redact import Secret
from bot_bottle.network.probes import KIT

BUNDLE = "ca.pem"

# what programs read the authorities from that they trust
VARIABLES = dict.fromkeys(
    (
        "AWS_CA_BUNDLE",
        "CARGO_HTTP_CAINFO",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    ),
    f"{KIT}/{BUNDLE}",
)


@dataclass(frozen=True, slots=True)
class Withheld:
    """A secret of the variable `name`, for `hosts` alone."""

    name: str
    hosts: tuple[str, ...]
    value: Secret
    placeholder: str = field(default_factory=lambda: f"BOTTLE_PLACEHOLDER_{secrets.token_hex(16)}")


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is withheld, and where the bundle of the authorities goes that the bottle is to trust."""

    secrets: Sequence[Withheld]
    bundle: Path


def variables(withheld: Iterable[Withheld]) -> dict[str, str]:
    """Give what a bottle gets instead of the values; nothing, if nothing is withheld."""
    found = {each.name: each.placeholder for each in withheld}
    return {**VARIABLES, **found} if found else {}


def put_in(header: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """Give a header's value with the placeholders replaced, those within Basic credentials too (RFC 7617)."""
    scheme, space, rest = header.partition(b" ")
    if space and scheme.lower() == b"basic":
        try:
            plain = base64.b64decode(rest.strip(), validate=True)
        except (binascii.Error, ValueError):
            return header
        return scheme + space + base64.b64encode(_replaced(plain, values))
    return _replaced(header, values)


def _replaced(text: bytes, values: Mapping[bytes, bytes]) -> bytes:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
