"""Packages of an npm registry: their hashes, and their files, which are verified while they are fetched.

No script of a package is run, and no dependency is resolved. Nothing is used before its hash was right.

Sources: npm documentation, "Package Metadata" of the registry API; W3C Subresource Integrity.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from msgspec import Struct

from bot_bottle.agent.npmrc import Npmrc, read_npmrc
from bot_bottle.agent.profile import INTEGRITY
from bot_bottle.errors import AgentError
from bot_bottle.host.text import printable

LARGEST = 1 << 30  # bytes of a package's archive
_METADATA_LIMIT = 4 << 20  # bytes
_TIMEOUT = 60.0  # seconds without any data
_PIECE = 1 << 20
_CONFIGURATION = "see `registry`, `proxy`, `cafile` and //HOST/:_authToken in your .npmrc"


class Release(Struct, frozen=True):
    """One version of a package, as the registry has it."""

    name: str
    version: str
    integrity: str
    archive: str


class Registry:
    """The registries of the user's npm configuration."""

    def __init__(self, npmrc: Npmrc | None = None) -> None:
        self._npmrc = read_npmrc() if npmrc is None else npmrc
        self._opener = _opener(self._npmrc, self._npmrc.proxies or None)
        self._direct = _opener(self._npmrc, {})

    def find(self, name: str, version: str) -> Release:
        """Return a version, or the one that a tag such as `latest` names. Raises AgentError."""
        what = f"{name}@{version}"
        base = self._npmrc.registry(name)
        with self._opened(f"{base}{quote(name, safe='@')}/{quote(version, safe='')}", what) as answer:
            data = answer.read(_METADATA_LIMIT + 1)
        try:
            document: Any = json.loads(data if len(data) <= _METADATA_LIMIT else b"")
            found, dist = document["version"], document["dist"]
            integrity, archive = dist.get("integrity", ""), dist["tarball"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AgentError(
                f"the registry gave an invalid description of {what}", next_step=_CONFIGURATION
            ) from error
        strong = re.findall(INTEGRITY, integrity) if isinstance(integrity, str) else []
        if not isinstance(found, str) or not isinstance(archive, str) or len(strong) != 1:
            raise AgentError(
                f"the registry has no SHA-512 of {what}", next_step="name another version, or registry"
            )
        return Release(name, found, strong[0], archive)

    def fetch(self, release: Release, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Write a package's archive to `target`, and check its hash. Raises AgentError, OSError.

        Where it fails, `target` has to be removed. `on_bytes` is called with the size of each piece.
        """
        what = f"{release.name}@{release.version}"
        digest, size = hashlib.sha512(), 0
        with self._opened(release.archive, what) as answer, target.open("wb") as file:
            while piece := _piece(answer, what):
                size += len(piece)
                if size > LARGEST:
                    raise AgentError(f"{what} is larger than {LARGEST >> 30} GiB")
                digest.update(piece)
                file.write(piece)
                on_bytes(len(piece))
        found = "sha512-" + base64.b64encode(digest.digest()).decode()
        if found != release.integrity:
            raise _other(what, release.integrity, found)

    def _opened(self, url: str, what: str) -> Any:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AgentError(f"the registry names an invalid place of {what}")
        asked = request.Request(url, headers={"Accept": "*/*", "User-Agent": "bot-bottle"})  # noqa: S310
        if secret := self._npmrc.authorization(url):
            asked.add_unredirected_header("Authorization", secret.reveal())
        try:
            opener = self._direct if self._npmrc.is_direct(parts.hostname) else self._opener
            return opener.open(asked, timeout=_TIMEOUT)
        except HTTPError as error:
            error.close()
            raise _refused(what, parts.hostname, error.code) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(what, parts.hostname, error) from error


def check_integrity(release: Release, pinned: str) -> None:
    """Check that the registry has the package that was pinned. Raises AgentError."""
    if release.integrity != pinned:
        raise _other(f"{release.name}@{release.version}", pinned, release.integrity)


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects, but none from https to http."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise URLError("it redirects to a connection that is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(npmrc: Npmrc, proxies: dict[str, str] | None) -> request.OpenerDirector:
    """Return what opens http and https URLs, and no others. Without `proxies`, by the environment's."""
    context = ssl.create_default_context()
    if (file := npmrc.authorities) is not None:
        try:
            context = ssl.create_default_context(cafile=str(file))
        except OSError as error:
            raise AgentError(
                f"npm's cafile cannot be used: {file}", why=str(error), next_step=_CONFIGURATION
            ) from error
    opener = request.OpenerDirector()
    handlers = (
        request.ProxyHandler(proxies),
        request.HTTPHandler(),
        request.HTTPSHandler(context=context),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        request.UnknownHandler(),
        _Redirects(),
    )
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _piece(answer: Any, what: str) -> bytes:
    try:
        data: bytes = answer.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise AgentError(
            f"the download of {what} ended early", why=str(error), next_step="try again"
        ) from error
    return data


def _refused(what: str, host: str, code: int) -> AgentError:
    if code in (401, 403):
        return AgentError(f"{host} refuses to hand out {what} ({code})", next_step=_CONFIGURATION)
    if code == 404:
        return AgentError(f"{host} has no {what}", next_step="name another version, or registry")
    return AgentError(f"{host} did not hand out {what} ({code})", next_step="try again")


def _unreachable(what: str, host: str, error: Exception) -> AgentError:
    reason = getattr(error, "reason", error)
    return AgentError(
        f"{what} cannot be fetched from {host}",
        why=printable(str(reason), limit=300),
        next_step=f"see whether this machine reaches {host}, and {_CONFIGURATION}",
    )


def _other(what: str, pinned: str, found: str) -> AgentError:
    return AgentError(
        f"{what} is not the package that was pinned",
        why=f"expected {pinned}\ngot      {found}",
        next_step="do not use this registry, or pin another version if you trust it",
    )
