"""npm's configuration of the user: the registries of packages, their tokens, proxies and authorities.

Only the user's own file is read, and the variables `npm_config_*`, which come before it: a repository's
`.npmrc` would decide where a program comes from that is to be trusted more than the repository.

Sources: npm documentation, "npmrc" and "config"; npm-registry-fetch, "Configuring credentials".
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

from bot_bottle.errors import AgentError
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.redact import Secret

_LIMIT = 1 << 20  # bytes
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PREFIX = "npm_config_"


@dataclass(frozen=True, slots=True)
class Npmrc:
    """The settings in force, by name. The values of some are secrets."""

    settings: Mapping[str, str] = field(repr=False)

    def registry(self, package: str) -> str:
        """Return the URL, with a slash at its end, of the registry of a package. Raises AgentError."""
        scope = package.partition("/")[0] if package.startswith("@") else ""
        url = self.settings.get(f"{scope}:registry") if scope else None
        url = url or self.settings.get("registry") or _default_registry()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise AgentError(
                f"npm's configuration has a registry for {package} that cannot be used",
                why="it is not an http or https URL without a user name",
                next_step="correct `registry` in your .npmrc; a token is //HOST/:_authToken there",
            )
        return url.rstrip("/") + "/"

    def authorization(self, url: str) -> Secret | None:
        """Return the value of the Authorization header for a URL, that of the longest path; None without."""
        parts = urlsplit(url)
        segments = parts.path.split("/")
        for count in range(len(segments), 0, -1):
            place = f"//{parts.netloc}{'/'.join(segments[:count])}".rstrip("/")
            if found := self._authorization_at(place):
                return Secret(found)
        return None

    def _authorization_at(self, place: str) -> str:
        for prefix in (f"{place}/", place):
            if token := self.settings.get(f"{prefix}:_authToken"):
                return f"Bearer {token}"
            if basic := self.settings.get(f"{prefix}:_auth"):
                return f"Basic {basic}"
            name, password = (self.settings.get(f"{prefix}:{key}") for key in ("username", "_password"))
            if name and password:
                plain = base64.b64decode(password + "==").decode("utf-8", "replace")
                return "Basic " + base64.b64encode(f"{name}:{plain}".encode()).decode()
        return ""

    @property
    def proxies(self) -> dict[str, str]:
        """The proxies by scheme that npm's own settings name; {} where the environment's are to be used."""
        proxy, secure = self.settings.get("proxy"), self.settings.get("https-proxy")
        found = {"http": proxy, "https": secure or proxy}
        return {scheme: url for scheme, url in found.items() if url and url not in ("null", "false")}

    def is_direct(self, host: str) -> bool:
        """Return whether npm's own setting `noproxy` has a host, or a domain that it is in."""
        names = (name.strip().lstrip(".").lower() for name in self.settings.get("noproxy", "").split(","))
        return any(name and (host == name or host.endswith(f".{name}")) for name in names)

    @property
    def authorities(self) -> Path | None:
        """The file of authorities that are trusted in place of the system's."""
        found = self.settings.get("cafile")
        return Path(found).expanduser() if found and found != "null" else None


def read_npmrc() -> Npmrc:
    """Return the user's settings. Raises AgentError for a file that cannot be read."""
    given = {
        _key(name[len(_PREFIX) :]): value
        for name, value in os.environ.items()
        if name.lower().startswith(_PREFIX) and value
    }
    settings = {**_of_file(given.get("userconfig")), **given}
    return Npmrc({name: _expanded(value) for name, value in settings.items()})


def _key(name: str) -> str:
    """Return a setting's name, of that of its variable: `https_proxy` is `https-proxy`."""
    return name if name.startswith("//") else name.lower().replace("_", "-")


def _of_file(named: str | None) -> dict[str, str]:
    home = paths.home_dir()
    path = Path(named) if named else home / ".npmrc" if home else None
    if path is None:
        return {}
    try:
        text = read_regular(path.resolve(), _LIMIT)[0].decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"cannot read npm's configuration {path}", why=type(error).__name__) from error
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", ";", "[")):
            found[name.strip()] = value.strip().strip("\"'")
    return found


def _expanded(value: str) -> str:
    """Return a value with `${NAME}` replaced; that of a variable which is not set stays, as npm has it."""
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), value)


def _default_registry() -> str:
    text = resources.files(__package__ or "").joinpath("registry.toml").read_text("utf-8")
    return str(tomllib.loads(text)["default"])
