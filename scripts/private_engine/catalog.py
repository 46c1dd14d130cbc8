"""The engines and the QEMUs of other Debian suites that the tests run on.

The names say what the suites had when they were written down; `scripts/engine list` says what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from private_engine.failure import Failure
from private_engine.suite import EMULATORS, NEEDED_BY_EMULATORS, Suite


@dataclass(frozen=True)
class Entry:
    """An engine: `program` (docker or podman) of `suite`, and for docker the image store and its containerd.

    With `own_containerd` dockerd starts containerd itself and keeps it below its data root; otherwise a
    containerd of its own root runs beside it, as one of the system does.
    """

    name: str
    program: str
    suite: str
    containerd_store: bool = False
    own_containerd: bool = False

    @property
    def store(self) -> str:
        """Return how its images are kept."""
        if not self.containerd_store:
            return "overlay2" if self.program == "docker" else "overlay"
        return "containerd, below docker's root" if self.own_containerd else "containerd, beside docker"


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("docker-26-overlay2", "docker", "trixie"),
        Entry("docker-26-containerd", "docker", "trixie", containerd_store=True, own_containerd=True),
        Entry("docker-28-overlay2", "docker", "sid", own_containerd=True),
        Entry("docker-28-containerd", "docker", "sid", containerd_store=True),
        Entry("podman-5.4", "podman", "trixie"),
        Entry("podman-5.8", "podman", "sid"),
    )
}


def entry(name: str) -> Entry:
    """Return the engine of that name. Raises Failure."""
    if name not in ENTRIES:
        raise Failure(f"there is no engine named {name}", f"name one of: {', '.join(ENTRIES)}")
    return ENTRIES[name]


QEMUS = {
    name: Suite(suite, EMULATORS, NEEDED_BY_EMULATORS, "QEMU", "-qemu")
    for name, suite in (("qemu-10", "trixie"), ("qemu-11", "sid"))
}


def qemu(name: str) -> Suite:
    """Return the suite that has the QEMU of that name. Raises Failure."""
    if name not in QEMUS:
        raise Failure(f"there is no QEMU named {name}", f"name one of: {', '.join(QEMUS)}")
    return QEMUS[name]
