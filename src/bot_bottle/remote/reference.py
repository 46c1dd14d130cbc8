"""References to artifacts in registries.

Source: OCI distribution-spec v1.1, "Pulling manifests" (the grammar of names and tags).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from msgspec import Struct

from bot_bottle.errors import ImageError, UsageError
from bot_bottle.host.text import printable
from bot_bottle.image.spec import Digest
from bot_bottle.structs import replace

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?=.{{1,255}}\Z){_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")


class Reference(Struct, frozen=True):
    """A repository on a host (`name` or `name:port`), and a tag or digest in it."""

    host: str
    repository: str
    tag: str = "latest"
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse `HOST/NAME[:TAG][@DIGEST]`. Raises UsageError."""
        plain, at, digest = text.partition("@")
        host, slash, path = plain.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            raise _invalid(text, "it does not begin with the host of a registry")
        repository, colon, tag = path.partition(":")
        if (
            not _HOST.fullmatch(host)
            or not _NAME.fullmatch(repository)
            or (colon and not _TAG.fullmatch(tag))
        ):
            raise _invalid(text, "its host, name or tag has characters that none has")
        try:
            return cls(host, repository, tag or "latest", Digest(digest) if at else None)
        except ImageError as error:
            raise _invalid(text, error.message) from error

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine's loopback."""
        return is_loopback(f"//{self.host}")

    @property
    def url(self) -> str:
        """The URL that its repository's endpoints are below. Only the loopback is asked by plain HTTP."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        return f"{'http' if self.is_loopback else 'https'}://{host}/v2/{self.repository}"

    @property
    def wanted(self) -> str:
        """The digest, or else the tag."""
        return str(self.digest or self.tag)

    @property
    def name(self) -> str:
        """The repository and the tag, without the host: a copy in another registry has the same."""
        return f"{self.repository}:{self.tag}"

    def tagged(self, tag: str) -> Reference:
        """Return the reference of another tag in the same repository."""
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{f'@{self.digest}' if self.digest else f':{self.tag}'}"


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine's loopback, by its name or address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _invalid(text: str, why: str) -> UsageError:
    return UsageError(
        f"not a reference to an artifact in a registry: {printable(text, limit=200)!r}",
        why=why,
        next_step="write it as registry.example.org/team/agent:1",
    )
