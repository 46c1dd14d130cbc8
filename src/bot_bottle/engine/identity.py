"""What identifies an image in an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bot_bottle.image.spec import Digest

# the parts of `image inspect` that describe the config, and not the engine's storage
_FACTS = ("Architecture", "Author", "Config", "Created", "Os", "RootFS", "Variant")
_STEP = ("Comment", "CreatedAt", "CreatedBy")  # the parts of `history` that describe the step


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image as its engine names it.

    `id` is the engine's own: the digest of the image's config, or in containerd's image store that of its
    manifest or index. `facts` is the engine's description of the config, as JSON. `config_digest` is None
    where it is not known yet.
    """

    id: str
    facts: str = field(default="", repr=False)
    config_digest: Digest | None = None


def image_of(image_id: str, inspected: Mapping[str, Any]) -> EngineImage:
    """Return the image that `image inspect` described."""
    return EngineImage(image_id, _json({name: inspected.get(name) for name in _FACTS}))


def fingerprint(image: EngineImage, history: Iterable[Mapping[str, Any]]) -> str:
    """Return the hexadecimal SHA-256 of the engine's description of an image's config.

    It is the same for another manifest or index of the same config. `history` is the output of `history`,
    line by line.
    """
    steps = [{name: step.get(name) for name in _STEP} for step in history]
    return hashlib.sha256(f"{image.facts}{_json(steps)}".encode()).hexdigest()


def _json(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
