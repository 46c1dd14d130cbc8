"""The microVM backend: a bottle as a machine of smolvm, on this machine's KVM or on an emulated host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from bot_bottle.backend.base import Boot, BottleConfig, Machine
from bot_bottle.backend.microvm import bottle, probes
from bot_bottle.backend.microvm.variables import read_variables
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy
from bot_bottle.network.ports import Port
from bot_bottle.network.probes import Proof
from bot_bottle.network.smolvm_policy import network_argv, widening_argv
from bot_bottle.secrets.reference import Reference
from bot_bottle.structs import replace
from bot_bottle.vm.accel import Accel, choose_accel
from bot_bottle.vm.capabilities import probe_kvm
from bot_bottle.vm.emulated.host import OWN_MEMORY_MIB
from bot_bottle.vm.host import NativeHost
from bot_bottle.vm.smolvm import find_smolvm


class MicrovmBackend:
    """Implements `backend.base.Backend` with smolvm."""

    boots_artifact = True

    def check(
        self, egress: Policy, secrets: Sequence[Reference], ports: Sequence[Port], *, archive: bool
    ) -> None:
        """Refuse a policy that smolvm's own rules cannot have beneath the proxy's. Raises SpecError."""
        del secrets, ports, archive  # any can be given; an artifact is made of an archive as of any image
        network_argv(egress)

    def check_storage(self, mib: int) -> None:
        """Refuse what smolvm's disks cannot have. Raises SpecError."""
        if mib % 1024:
            raise SpecError(
                f"smolvm's disks have whole GiB, not {mib} MiB",
                next_step="write it as 4g; or use --accel direct",
            )

    def check_ask(self) -> None:
        """Refuse it: smolvm decides about connections, and asks nobody. Raises SpecError."""
        raise SpecError(
            "--ask does not work where smolvm enforces the policy",
            next_step="use --backend docker or --accel direct; or bottle learn, which asks at the end",
        )

    def check_env(self, env: Mapping[str, str]) -> None:
        """Do nothing: variables are passed to smolvm under names of ours."""
        del env

    def host_overhead_mib(self, accel: Accel) -> int:
        """Return what an emulated host needs for itself, 0 on KVM."""
        return OWN_MEMORY_MIB if choose_accel(accel, probe_kvm()) == "nested" else 0

    def variables(self, egress: Policy) -> Mapping[str, str]:
        """Return nothing: programs in a microVM have an ordinary network."""
        del egress
        return {}

    def start(
        self,
        config: BottleConfig,
        boot: Boot,
        files: EgressFiles,
        run: RunDir,
        progress: Progress,
        accel: Accel,
    ) -> AbstractContextManager[bottle.Bottle]:
        """Boot the bottle's artifact."""
        assert boot.artifact is not None  # noqa: S101 - this backend boots artifacts
        return bottle.launch(config, boot.artifact, run, files, progress, accel=accel)

    def execute(self, machine: Machine, config: BottleConfig, progress: Progress, *, tty: bool) -> int:
        """Run another command in the microVM, and return its exit status."""
        if machine.place == "nested":
            raise SpecError(
                f"the bottle {machine.slug} cannot run another command: it is on an emulated host",
                next_step="include it in the bottle's own command, or use --backend docker",
            )
        env = {**read_variables(machine.slug), **config.env}
        return bottle.execute(replace(config, env=env), progress, tty=tty)

    def probe(self, machine: Machine, policy: Policy, progress: Progress) -> Proof:
        """Probe again from inside what the microVM can reach."""
        if machine.place == "nested":
            raise SpecError(
                f"the network of the bottle {machine.slug} cannot be checked again",
                why="it is on an emulated host, which runs one command only; it was checked at the start",
            )
        host = NativeHost(find_smolvm(progress))
        return probes.prove(machine.name, policy, host, published=machine.published)

    def check_can_allow(self, machine: Machine) -> None:
        """Do nothing: the bottle's own process changes smolvm's rules as the policy file changes."""

    def check_can_disallow(self, machine: Machine) -> None:
        """Do nothing: the proxy reads its policy file again."""

    def allow(self, machine: Machine, added: Policy) -> None:
        """Refuse what smolvm denies until the machine ends. Raises SpecError."""
        del machine
        widening_argv(added)
