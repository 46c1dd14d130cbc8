"""What an engine tells of itself, for `bottle doctor`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineDetails:
    """What `bottle doctor` tells of an engine. `endpoint` is where it answers; "" is this machine itself."""

    endpoint: str
    remote: bool
    rootless: bool
    desktop: bool
    snap: bool
    storage_driver: str
    containerd_store: bool


def part(document: Any, key: str) -> dict[str, Any]:
    """Give the object `key` of a JSON document, {} where there is none."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def is_containerd_store(info: dict[str, Any]) -> bool:
    """Return whether docker keeps its images in containerd, by the answer of `docker info`."""
    return "io.containerd.snapshotter" in json.dumps(info.get("DriverStatus"))


def podman_details(info: dict[str, Any]) -> EngineDetails:
    """Read the answer of `podman info`."""
    host, store = part(info, "host"), part(info, "store")
    remote = host.get("serviceIsRemote") is True
    return EngineDetails(
        endpoint=os.environ.get("CONTAINER_HOST", "") if remote else "",
        remote=remote,
        rootless=part(host, "security").get("rootless") is True,
        desktop=False,
        snap=False,
        storage_driver=str(store.get("graphDriverName", "")),
        containerd_store=False,
    )


def docker_details(info: dict[str, Any], endpoint: str, *, snap: bool) -> EngineDetails:
    """Read the answer of `docker info`; `endpoint` is where the current context leads."""
    desktop = info.get("OperatingSystem") == "Docker Desktop"
    return EngineDetails(
        endpoint=endpoint,
        remote=not endpoint.startswith(("unix://", "npipe://")),
        rootless="name=rootless" in json.dumps(info.get("SecurityOptions")),
        desktop=desktop,
        snap=snap,
        storage_driver=str(info.get("Driver", "")),
        containerd_store=is_containerd_store(info),
    )
