"""What identifies an image that an engine holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# what `image inspect` says of the image's own config, and not of its place in the engine
_FACTS = ("Architecture", "Author", "Config", "Created", "Os", "RootFS", "Variant")


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image as its engine names it.

    `id` is the engine's own word: the digest of the image's config, or in containerd's image store that of
    its manifest or index. `fingerprint` stands for all that the engine says of the image's content, and so is
    the same for another manifest or index of the same config.
    """

    id: str
    fingerprint: str


def fingerprint(inspected: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 over what `image inspect` says of an image's config and layers."""
    facts = {name: inspected.get(name) for name in _FACTS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
