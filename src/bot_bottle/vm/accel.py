"""How microVMs run, by the choice of --accel and what this machine has."""

from __future__ import annotations

from typing import Literal

from bot_bottle.errors import AccelError
from bot_bottle.vm.capabilities import Kvm, probe_kvm

Accel = Literal["auto", "kvm", "direct", "nested"]


def choose_accel(accel: Accel, kvm: Kvm) -> Literal["kvm", "direct", "nested"]:
    """Decide how microVMs run. `auto` uses KVM where it can boot a guest. Raises AccelError."""
    if accel == "auto":
        return "kvm" if kvm.state == "good" else "direct"
    if accel == "kvm" and kvm.state != "good":
        raise AccelError(
            "KVM cannot be used here", why=kvm.reason, next_step=f"{kvm.next_step}; or --accel direct"
        )
    return accel


def is_direct(accel: Accel) -> bool:
    """Return whether QEMU emulates microVMs without smolvm."""
    return accel == "direct" or (accel == "auto" and choose_accel(accel, probe_kvm()) == "direct")
