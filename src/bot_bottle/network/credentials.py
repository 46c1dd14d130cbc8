"""Credentials: secrets that the bottle never has. It has a placeholder, which the proxy replaces.

The value is only put into HTTPS requests to the hosts that the secret is for: into headers, and into bodies
where the secret says so. The bottle trusts a certificate authority of its own run, whose key stays outside,
so that the proxy can read these requests; connections to other hosts stay encrypted.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote_plus

from msgspec import Struct, field

from bot_bottle.errors import SpecError
from bot_bottle.host.redact import Renew, Secret
from bot_bottle.network.authorities import names_other_authorities
from bot_bottle.network.policy import NOTHING, Policy
from bot_bottle.network.probes import TOOLKIT
from bot_bottle.secrets.reference import Reference

BUNDLE = "ca.pem"

# variables from which programs read the file of authorities that they trust
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
    f"{TOOLKIT}/{BUNDLE}",
)


class ProxiedCredential(Struct, frozen=True):
    """A secret in the variable `name`, for `hosts` only."""

    name: str
    hosts: tuple[str, ...]
    value: Secret
    body: bool = False
    renew: Renew | None = None
    placeholder: str = field(default_factory=lambda: f"BOTTLE_PLACEHOLDER_{secrets.token_hex(16)}")


class CredentialStore(Struct, frozen=True):
    """The credentials of a bottle, and the file with the authorities that the bottle is to trust."""

    secrets: Sequence[ProxiedCredential]
    bundle: Path

    def read_bundle(self, egress: Policy) -> str:
        """Return the authorities, written by the proxy that has started; "" if the bottle has its own."""
        return self.bundle.read_text("utf-8", "surrogateescape") if self.needs_bundle(egress) else ""

    def needs_bundle(self, egress: Policy) -> bool:
        """Return whether the bottle is to trust other authorities than its own."""
        return bool(self.secrets) or needs_authorities(egress)


def check_credentials(egress: Policy, references: Iterable[Reference]) -> None:
    """Refuse secrets for hosts where the network is open and no proxy sees requests. Raises SpecError."""
    for secret in references:
        if secret.hosts and egress.open:
            raise SpecError(
                f"the secret {secret.name} has hosts, which need the proxy, and an open network has none",
                next_step=f"allow hosts instead: --allow {secret.hosts[0]}",
            )


def needs_authorities(egress: Policy) -> bool:
    """Return whether a bottle has to trust other authorities than its own, even without credentials.

    It does where requests are read, and where the user names others than the system's.
    """
    if egress.closed or egress.open:
        return False
    return egress.reads_requests or names_other_authorities(os.environ)


def variables(credentials: Iterable[ProxiedCredential], egress: Policy = NOTHING) -> dict[str, str]:
    """Return the variables that a bottle gets instead of the values, and those with authorities."""
    found = {each.name: each.placeholder for each in credentials}
    return {**VARIABLES, **found} if found or needs_authorities(egress) else {}


def substitute_placeholders(header: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """Return a header's value with placeholders replaced, also within Basic credentials (RFC 7617)."""
    scheme, space, rest = header.partition(b" ")
    if space and scheme.lower() == b"basic":
        try:
            plain = base64.b64decode(rest.strip(), validate=True)
        except (binascii.Error, ValueError):
            return header
        return scheme + space + base64.b64encode(substitute(plain, values))
    return substitute(header, values)


def takes_value(kind: str) -> Callable[[str], str] | None:
    """Return how a value is written in a body of a media type; None for one that gets no value."""
    name = kind.partition(";")[0].strip().lower()
    if name == "application/x-www-form-urlencoded":
        return quote_plus
    if name == "application/json" or (name.startswith("application/") and name.endswith("+json")):
        return lambda value: json.dumps(value)[1:-1]
    return str if name.startswith("text/") else None


def substitute(text: bytes, values: Mapping[bytes, bytes]) -> bytes:
    """Return a text with placeholders replaced."""
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
