"""What a bottle needs of a node, in the terms of Ray: processors, memory, and a resource that nodes announce.

A node announces how many bottles it runs at a time as one of these resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bot_bottle.errors import ClusterError

if TYPE_CHECKING:  # the head needs none of it
    from bot_bottle.bottle.spec import BottleSpec
    from bot_bottle.vm.accel import Accel

CONTAINER, KVM, EMULATED = "container", "kvm", "emulated"
MICROVMS = (KVM, EMULATED)


class Needs(Struct, frozen=True):
    """What one bottle takes while it runs; `memory` is in bytes."""

    cpus: int
    memory: int
    resource: str

    def options(self) -> dict[str, Any]:
        """Return the options of a Ray task."""
        return {"num_cpus": self.cpus, "memory": self.memory, "resources": {self.resource: 1}}

    def count(self, free: Mapping[str, float]) -> int:
        """Return for how many bottles there is room in these resources."""
        return int(min(free.get(name, 0) // count for name, count in self._wanted().items()))

    def fits(self, total: Mapping[str, float]) -> bool:
        """Return whether a node with these resources can ever run it."""
        return all(total.get(name, 0) >= count for name, count in self._wanted().items())

    def _wanted(self) -> dict[str, int]:
        return {"CPU": self.cpus, "memory": self.memory, self.resource: 1}


def needs_of(spec: BottleSpec, nodes: Sequence[Mapping[str, float]]) -> Needs:
    """Return what a spec's bottle needs on a cluster of nodes with these resources. Raises ClusterError."""
    from bot_bottle.backend.choice import backend_for

    backend = backend_for(spec.backend, spec.accel)
    memory = (spec.memory_mib + backend.host_overhead_mib(spec.accel)) << 20
    kinds = _kinds(spec.accel) if backend.boots_artifact else (CONTAINER,)
    announced = [kind for kind in kinds if any(node.get(kind, 0) >= 1 for node in nodes)]
    if not announced:
        raise ClusterError(
            f"no node of the cluster announces {' or '.join(kinds)}",
            why=f"announced: {', '.join(_announced(nodes)) or 'nothing'}",
            next_step="start Ray there with the options that bottle node prints",
        )
    needs = Needs(spec.cpus or 1, memory, announced[0])
    if not any(needs.fits(node) for node in nodes):
        raise ClusterError(
            f"no node of the cluster is large enough for a bottle with {needs.cpus} CPUs "
            f"and {memory >> 20} MiB",
            why="\n".join(
                f"{node.get('CPU', 0):g} CPUs, {int(node.get('memory', 0)) >> 20} MiB, "
                f"{needs.resource}: {node.get(needs.resource, 0):g}"
                for node in nodes
            ),
            next_step="use a smaller --memory or fewer --cpus",
        )
    return needs


def _kinds(accel: Accel) -> tuple[str, ...]:
    """Return the resources that give a microVM what it needs, the best first."""
    return {"auto": MICROVMS, "kvm": (KVM,)}.get(accel, (EMULATED,))


def _announced(nodes: Iterable[Mapping[str, float]]) -> list[str]:
    return sorted({kind for node in nodes for kind in (CONTAINER, *MICROVMS) if node.get(kind, 0) >= 1})
