"""The cache key: everything that decides an artifact's bytes."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from msgspec import Struct
from msgspec.structs import force_setattr

from bot_bottle.errors import ImageError
from bot_bottle.image.spec import Digest

SUFFIX = ".smolmachine"
STEM = r"[0-9a-f]{16}-[0-9a-f]{16}"

_CONFIG = "image_id"  # the key of `config_digest` in records; older ones had the engine's id
_TEXTS = (_CONFIG, "platform", "packer", "smolvm_version")
_NUMBERS = ("format_version", "flatten_version")


class Change(Struct, frozen=True):
    """A part of a key that differs between two keys. A missing part is empty."""

    part: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.part.replace('_', ' ')}: {self.old or '(none)'} -> {self.new or '(none)'}"


class Key(Struct, frozen=True):
    """The parts of a key. `options` are the packer's, as (name, value) pairs in the order of their names.

    `config_digest` is the digest of the image's config, which has the digests of all its layers.
    """

    config_digest: Digest
    platform: str
    packer: str
    smolvm_version: str
    format_version: int
    flatten_version: int
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        force_setattr(self, "options", tuple(sorted(self.options)))

    @property
    def stem(self) -> str:
        """16 hex digits of the config digest, for users to find it by, and 16 of a hash over all parts."""
        parts = json.dumps(self.document(), sort_keys=True, separators=(",", ":"))
        return f"{self.config_digest.hex[:16]}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"

    @property
    def name(self) -> str:
        """The artifact's file name in the cache."""
        return self.stem + SUFFIX

    def document(self) -> dict[str, Any]:
        """Return the parts as a JSON document."""
        return {
            _CONFIG: str(self.config_digest),
            "platform": self.platform,
            "packer": self.packer,
            "smolvm_version": self.smolvm_version,
            "format_version": self.format_version,
            "flatten_version": self.flatten_version,
            "options": dict(self.options),
        }

    @classmethod
    def parse(cls, document: Any) -> Key | None:
        """Parse a `document` from an untrusted file; None for anything else."""
        if not isinstance(document, dict) or not isinstance(options := document.get("options"), dict):
            return None
        texts = {name: document.get(name) for name in _TEXTS}
        numbers = {name: document.get(name) for name in _NUMBERS}
        if not all(isinstance(text, str) for text in [*texts.values(), *options.values()]):
            return None
        if not all(type(number) is int for number in numbers.values()):
            return None
        parts: dict[str, Any] = {**texts, **numbers, "options": tuple(options.items())}
        try:
            return cls(config_digest=Digest(parts.pop(_CONFIG)), **parts)
        except ImageError:
            return None

    def changes(self, new: Key) -> tuple[Change, ...]:
        """Return the parts in which `new` differs from this key."""
        old_parts, new_parts = self._flat(), new._flat()
        names = list(dict.fromkeys([*old_parts, *new_parts]))
        pairs = ((name, old_parts.get(name, ""), new_parts.get(name, "")) for name in names)
        return tuple(Change(name, old, new) for name, old, new in pairs if old != new)

    def _flat(self) -> dict[str, str]:
        document = self.document()
        parts = {"config_digest": str(document.pop(_CONFIG))}
        parts |= {name: str(value) for name, value in document.items() if name != "options"}
        return parts | {f"option {name}": value for name, value in self.options}


def stem_of(name: str) -> str | None:
    """Return the stem of a file's name in the cache, or None for a file that is not the cache's."""
    found = re.fullmatch(
        rf"({STEM})(\.smolmachine|\.json|\.parts|\.erofs|\.erofs-sum|\.lock|\.[a-z0-9_]+\.tmp)", name
    )
    return found[1] if found else None
