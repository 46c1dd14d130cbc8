"""The backend for a name, or for a running bottle. Each is imported when it is needed."""

from __future__ import annotations

from typing import assert_never

from bot_bottle.backend import BackendName
from bot_bottle.backend.base import Backend, Place
from bot_bottle.vm.accel import Accel, is_direct


def backend_for(name: BackendName, accel: Accel = "auto") -> Backend:
    """Return the backend with this name; `accel` says how its microVMs run."""
    match name:
        case "docker":
            from bot_bottle.backend.container.backend import ContainerBackend

            return ContainerBackend()
        case "smolmachines" if is_direct(accel):
            from bot_bottle.backend.direct.backend import DirectBackend

            return DirectBackend()
        case "smolmachines":
            from bot_bottle.backend.microvm.backend import MicrovmBackend

            return MicrovmBackend()
    assert_never(name)


def backend_at(place: Place) -> Backend:
    """Return the backend that a bottle runs in."""
    match place:
        case "container":
            return backend_for("docker")
        case "kvm" | "direct" | "nested":
            return backend_for("smolmachines", place)
    assert_never(place)
