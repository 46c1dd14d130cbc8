"""The backend of microVMs that QEMU emulates, for machines without a KVM that can boot a guest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from bot_bottle.backend.base import Boot, BottleConfig, Machine
from bot_bottle.backend.direct import bottle, probes
from bot_bottle.backend.direct.network import network_variables
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.credentials import check_credentials
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy
from bot_bottle.network.ports import Port
from bot_bottle.network.probes import Proof
from bot_bottle.secrets.reference import Reference
from bot_bottle.vm.accel import Accel
from bot_bottle.vm.capabilities import probe_kvm
from bot_bottle.vm.foreign_smolvm import reject_foreign_binary

OWN_MEMORY_MIB = 330  # of QEMU, besides the guest's: 75, and what it translates, 256 at most


class DirectBackend:
    """Implements `backend.base.Backend` with QEMU."""

    boots_artifact = True

    def check(
        self, egress: Policy, secrets: Sequence[Reference], ports: Sequence[Port], *, archive: bool
    ) -> None:
        """Refuse an open network without passt, and secrets for hosts in it. Raises SpecError."""
        del ports, archive
        if egress.open:
            from bot_bottle.vm.direct.open_network import find_passt  # only here: few bottles have one

            check_credentials(egress, secrets)
            find_passt()

    def check_storage(self, mib: int) -> None:
        """Do nothing: the disk can have any size."""
        del mib

    def check_ask(self) -> None:
        """Do nothing: the proxy asks."""

    def check_env(self, env: Mapping[str, str]) -> None:
        """Do nothing: any variable can be passed."""
        del env

    def host_overhead_mib(self, accel: Accel) -> int:
        """Return what QEMU needs for itself."""
        del accel
        return OWN_MEMORY_MIB

    def variables(self, egress: Policy) -> Mapping[str, str]:
        """Return the variables that name the proxy, where there is one."""
        return network_variables(egress)

    def start(
        self,
        config: BottleConfig,
        boot: Boot,
        files: EgressFiles,
        run: RunDir,
        progress: Progress,
        accel: Accel,
    ) -> AbstractContextManager[bottle.DirectBottle]:
        """Boot the bottle's artifact."""
        reject_foreign_binary()
        if accel == "auto":
            progress.note(f"QEMU emulates the microVM: {probe_kvm().reason}")
        assert boot.artifact is not None  # noqa: S101 - this backend boots artifacts
        return bottle.launch(config, boot.artifact, run, files, progress)

    def execute(self, machine: Machine, config: BottleConfig, progress: Progress, *, tty: bool) -> int:
        """Run another command in the microVM, and return its exit status."""
        del machine, progress
        return bottle.execute(config, tty=tty)

    def probe(self, machine: Machine, policy: Policy, progress: Progress) -> Proof:
        """Probe again from inside what the microVM can reach."""
        del progress
        return probes.prove_again(bottle.machine_folder(machine.slug), policy, published=machine.published)

    def check_can_allow(self, machine: Machine) -> None:
        """Do nothing: the proxy reads its policy file again."""

    def check_can_disallow(self, machine: Machine) -> None:
        """Do nothing: the proxy reads its policy file again."""

    def allow(self, machine: Machine, added: Policy) -> None:
        """Do nothing: the proxy reads its policy file again."""
