"""The endpoints of the API.

Source: OCI distribution-spec v1.1, "Endpoints"; the grammar of names and tags is in "Pulling manifests".
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from bot_bottle.errors import ImageError
from bot_bottle.image.spec import Digest
from bot_bottle.registry.errors import Answer, Refusal, name_unknown

Kind = Literal["base", "blob", "manifest", "uploads", "upload", "tags", "referrers"]

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_NAME_LIMIT = 255


class Route(Struct, frozen=True):
    """The endpoint of a request. `reference` is an unchecked tag or digest, or an upload's id."""

    kind: Kind
    name: str = ""
    reference: str = ""

    @property
    def digest(self) -> Digest:
        """The reference as a digest. Raises Refusal."""
        return as_digest(self.reference)

    @property
    def tag_or_digest(self) -> str | Digest:
        """The reference as a tag or digest. Raises Refusal."""
        return as_digest(self.reference) if ":" in self.reference else as_tag(self.reference)


def parse(path: str) -> Route:
    """Parse a path. Raises Refusal for an unknown endpoint or an invalid name."""
    if path in ("/v2/", "/v2"):
        return Route("base")
    if not path.startswith("/v2/"):
        raise name_unknown()
    route = _endpoint(path.split("/")[2:])
    if route is None or not is_name(route.name):
        raise name_unknown()
    return route


def _endpoint(parts: list[str]) -> Route | None:
    match parts:
        case [*name, "blobs", "uploads", ""] | [*name, "blobs", "uploads"]:
            return Route("uploads", "/".join(name))
        case [*name, "blobs", "uploads", upload]:
            return Route("upload", "/".join(name), upload)
        case [*name, "blobs", digest]:
            return Route("blob", "/".join(name), digest)
        case [*name, "manifests", reference]:
            return Route("manifest", "/".join(name), reference)
        case [*name, "referrers", digest]:
            return Route("referrers", "/".join(name), digest)
        case [*name, "tags", "list"]:
            return Route("tags", "/".join(name))
    return None


def is_name(name: str) -> bool:
    """Return whether a repository's name is well formed."""
    return len(name) <= _NAME_LIMIT and _NAME.match(name) is not None


def as_tag(text: str) -> str:
    """Return a valid tag. Raises Refusal."""
    if not _TAG.match(text):
        raise Refusal(Answer.MANIFEST_INVALID, "not a tag", detail=text[:200])
    return text


def as_digest(text: str) -> Digest:
    """Parse a digest. Raises Refusal."""
    try:
        return Digest(text)
    except ImageError as error:
        raise Refusal(
            Answer.DIGEST_INVALID,
            "not a digest of a supported algorithm (sha256, sha512)",
            detail=text[:200],
        ) from error
