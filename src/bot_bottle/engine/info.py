"""Parses an engine's description of itself (`docker info`, `podman info`)."""

from __future__ import annotations

import json
from typing import Any


def part(document: Any, key: str) -> dict[str, Any]:
    """Return the object `key` of a JSON document, {} where there is none."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def is_containerd_store(info: dict[str, Any]) -> bool:
    """Return whether docker stores its images in containerd, by the output of `docker info`."""
    return "io.containerd.snapshotter" in json.dumps(info.get("DriverStatus"))


def is_rootless(info: dict[str, Any]) -> bool:
    """Return whether the engine is rootless."""
    if "name=rootless" in json.dumps(info.get("SecurityOptions")):  # of docker
        return True
    return part(part(info, "host"), "security").get("rootless") is True


def remaps_users(info: dict[str, Any]) -> bool:
    """Return whether docker maps the users of all its containers to others (userns-remap)."""
    return "name=userns" in json.dumps(info.get("SecurityOptions"))
