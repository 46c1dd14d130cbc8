"""The receipt of an artifact in a registry: what it was made from, and which bytes it has.

A signature of a receipt binds the artifact's digest, its platform, its key and the name that it was pushed to
to each other. The receipt's bytes are what is signed; they are never written anew.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from bot_bottle.cache.key import Key
from bot_bottle.errors import ImageError, UntrustedError
from bot_bottle.host.text import printable
from bot_bottle.image.spec import Digest, Platform, parse_json
from bot_bottle.smolmachine.manifest import Manifest
from bot_bottle.version import VERSION

LIMIT = 1 << 18  # bytes
NOT_SCANNED = "not scanned"

_FORM = 2
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Receipt(Struct, frozen=True):
    """A parsed receipt, and its bytes. `key` is None for an artifact that was not made by the cache's rules.

    `name` is the repository and tag that it was pushed to. `created` and `pushed` are times in RFC 3339 form.
    `scan` is the result of a search for secrets before the push, or NOT_SCANNED.
    """

    raw: bytes
    name: str
    digest: Digest
    size: int
    platform: str
    key: Key | None
    created: str
    pushed: str
    scan: str
    versions: dict[str, str]

    @classmethod
    def make(
        cls,
        name: str,
        manifest: Manifest,
        digest: Digest,
        size: int,
        key: Key | None,
        created: float,
        pushed: float,
        scan: str = NOT_SCANNED,
    ) -> Receipt:
        """Make the receipt of an artifact. Times are in seconds since 1970."""
        versions = {"bot-bottle": VERSION, "smolvm": manifest.smolvm_version}
        document: dict[str, Any] = {
            "form": _FORM,
            "name": name,
            "artifact": {"digest": str(digest), "size": size},
            "image_id": manifest.digest,
            "platform": _two_parts(manifest.platform),
            "key": key.document() if key else None,
            "created": _time(created),
            "pushed": _time(pushed),
            "scan": scan,
            "versions": versions,
        }
        return cls.parse(json.dumps(document, indent=1, sort_keys=True).encode())

    @classmethod
    def parse(cls, raw: bytes) -> Receipt:
        """Parse a receipt from an untrusted source. Raises UntrustedError."""
        try:
            document = parse_json(raw, "receipt")
            artifact, key = document["artifact"], document["key"]
            parsed = Key.parse(key)
            if document["form"] != _FORM or (key is not None and parsed is None):
                raise _malformed("it is of another form")
            versions, size = document["versions"], artifact["size"]
            texts = [document[name] for name in ("name", "platform", "created", "pushed", "scan")]
            good = (
                type(size) is int
                and size > 0
                and isinstance(versions, dict)
                and all(isinstance(text, str) for text in (*texts, *versions.values()))
                and all(map(is_time, texts[2:4]))
            )
            if not good:
                raise _malformed("a value in it has another type")
            name, platform, created, pushed, scan = texts
            digest = Digest(artifact["digest"])
            return cls(raw, name, digest, size, platform, parsed, created, pushed, scan, dict(versions))
        except (ImageError, KeyError, TypeError) as error:
            raise _malformed(error.message if isinstance(error, ImageError) else repr(error)) from error

    def check(self, digest: Digest, size: int, key: Key | None = None) -> None:
        """Check that it is about these bytes, this machine's platform and, if given, this key.

        Raises UntrustedError with what differs.
        """
        if (self.digest, self.size) != (digest, size):
            raise _refused(f"it is of the artifact {self.digest}, not of {digest}")
        if self.platform != (wanted := _two_parts(str(Platform.of_this_machine()))):
            raise _refused(f"its artifact is for {self.platform}, and this machine runs {wanted}")
        if key is None or self.key == key:
            return
        if self.key is None:
            raise _refused("it has no key, and an artifact of one key was asked for")
        changes = "\n".join(map(str, self.key.changes(key)))
        raise _refused(f"its artifact was made for another key, an older one for example:\n{changes}")

    def check_name(self, name: str) -> None:
        """Check that it was pushed to this repository and tag. Raises UntrustedError."""
        if self.name != name:
            own = printable(self.name, limit=400)
            raise UntrustedError(
                "the artifact was pushed to another name",
                why=f"its signed receipt says {own}, and {name} was asked for",
                next_step=f"ask who pushes it; if this is meant to be a copy of it, add --pushed-as {own}",
            )

    def check_manifest(self, manifest: Manifest) -> None:
        """Check that an artifact says of itself what its receipt says. Raises UntrustedError."""
        check_key(manifest, self.key)
        if _two_parts(manifest.platform) != self.platform:
            raise _refused(f"its artifact is for {manifest.platform}, and not for {self.platform}")


def is_time(value: object) -> bool:
    """Return whether a value is a time as receipts have it; as texts they are in the order of time."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def check_key(manifest: Manifest, key: Key | None) -> None:
    """Check that an artifact may be that of a key. Raises UntrustedError."""
    if key is None:
        return
    said = (manifest.digest, _two_parts(manifest.platform), manifest.smolvm_version)
    wanted = (str(key.config_digest), _two_parts(key.platform), key.smolvm_version)
    for what, one, other in zip(("image", "platform", "smolvm"), said, wanted, strict=True):
        if one != other:
            raise _refused(f"the artifact's own {what} is {one[:100]!r}, and that of its key {other!r}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _two_parts(platform: str) -> str:
    return "/".join(platform.split("/")[:2])


def _malformed(why: str) -> UntrustedError:
    return UntrustedError("a receipt in the registry cannot be read", why=why)


def _refused(why: str) -> UntrustedError:
    return UntrustedError(
        "the artifact is not the one that was asked for",
        why=why,
        next_step="do not use it; push it again from a machine that you trust",
    )
