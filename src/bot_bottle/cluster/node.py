"""What this machine can do as a node of a cluster, in the terms in which Ray is started."""

from __future__ import annotations

import json
import os
from typing import Any

from msgspec import Struct

from bot_bottle.cluster.resources import CONTAINER, EMULATED, KVM
from bot_bottle.engine.engine import find_engine
from bot_bottle.errors import BottleError, ClusterError
from bot_bottle.vm.capabilities import probe_kvm
from bot_bottle.vm.qemu_program import find_qemu, qemu_version


class Ability(Struct, frozen=True):
    """A kind of bottle. `resource` is what the node announces; without one `finding` says why it does not."""

    name: str
    resource: str
    finding: str


def find_abilities() -> list[Ability]:
    """Return what this machine runs. Raises ClusterError where it runs no bottles at all."""
    found = [_containers(), _microvms()]
    if not any(each.resource for each in found):
        raise ClusterError(
            "this machine runs no bottles",
            why="\n".join(f"{each.name}: {each.finding}" for each in found),
            next_step="see bottle doctor",
        )
    return found


def _containers() -> Ability:
    try:
        engine = find_engine()
    except BottleError as error:
        return Ability("containers", "", error.message)
    return Ability("containers", CONTAINER, f"{engine.name} {engine.server_version}")


def _microvms() -> Ability:
    kvm = probe_kvm()
    if kvm.state == "good":
        return Ability("microVMs", KVM, "KVM")
    try:
        return Ability("microVMs", EMULATED, f"QEMU {qemu_version(find_qemu())} emulates them: {kvm.reason}")
    except BottleError as error:
        return Ability("microVMs", "", error.message)


def ray_options(abilities: list[Ability], slots: int | None) -> list[str]:
    """Return the options of `ray start` for a node that runs `slots` bottles at a time.

    Without `slots` there are as many as processors. Nothing in them needs quotes in a shell.
    """
    count = slots or os.cpu_count() or 1
    resources: dict[str, Any] = {each.resource: count for each in abilities if each.resource}
    announced = f"--resources={json.dumps(resources, separators=(',', ':'))}"
    return [*([f"--num-cpus={slots}"] if slots else []), announced]
