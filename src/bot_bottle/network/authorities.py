"""Certificate authorities of the user's network: those of SSL_CERT_FILE and SSL_CERT_DIR (OpenSSL).

They are collected into one file, by which servers are checked outside, and which the bottle is to trust too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bot_bottle.errors import SpecError

FILE, FOLDERS = "SSL_CERT_FILE", "SSL_CERT_DIR"

# where distributions have theirs
_SYSTEM = (
    *("/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/certs/ca-bundle.crt"),
)
_LARGEST = 16 << 20  # bytes of all of them
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def has_own_authorities(env: Mapping[str, str]) -> bool:
    """Return whether the environment names authorities."""
    return bool(env.get(FILE) or env.get(FOLDERS))


def names_other_authorities(env: Mapping[str, str]) -> bool:
    """Return whether the environment names authorities that are not just the place of the system's."""
    if not has_own_authorities(env):
        return False
    import ssl  # only here and below: it takes a while to load, and few name authorities

    python = ssl.get_default_verify_paths()
    usual = {os.path.realpath(each) for each in (*_SYSTEM, python.openssl_cafile, python.openssl_capath)}
    named = [env.get(FILE) or "", *(env.get(FOLDERS) or "").split(os.pathsep)]
    return any(os.path.realpath(each) not in usual for each in filter(None, named))


def write_authorities(env: Mapping[str, str], path: Path) -> None:
    """Write the authorities that the environment names, each once. Raises SpecError if there is none.

    A folder is added to this machine's usual file, if no other file is named.
    """
    import ssl

    usual = ssl.get_default_verify_paths().openssl_cafile
    found: dict[bytes, None] = {}
    size = 0
    for each in _files(env.get(FILE) or usual, env.get(FOLDERS) or ""):
        try:
            content = each.read_bytes()
        except OSError as error:
            if str(each) == env.get(FILE):
                raise _refused(f"{each}: {error.strerror}") from error
            continue
        size += len(content)
        if size > _LARGEST:
            raise _refused(f"they are larger than {_LARGEST >> 20} MiB")
        found |= dict.fromkeys(_CERTIFICATE.findall(content))
    if not found:
        raise _refused("there is no certificate in PEM form in them")
    path.write_bytes(b"\n".join(found) + b"\n")


def _files(file: str, folders: str) -> Iterator[Path]:
    yield Path(file)
    for folder in filter(None, folders.split(os.pathsep)):
        try:
            yield from sorted(path for path in Path(folder).iterdir() if path.is_file())
        except OSError as error:
            raise _refused(f"{folder}: {error.strerror}") from error


def _refused(why: str) -> SpecError:
    return SpecError(
        f"the authorities of {FILE} and {FOLDERS} cannot be used",
        why=why,
        next_step="correct these variables, or unset them",
    )
