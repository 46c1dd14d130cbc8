"""The container backend: a bottle as a hardened container of docker or podman."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from bot_bottle.backend.base import Boot, BottleConfig, Machine
from bot_bottle.backend.container import bottle, probes
from bot_bottle.backend.container.commands import inherited_variables
from bot_bottle.engine.engine import Engine, find_engine
from bot_bottle.errors import SpecError
from bot_bottle.host import rundir
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.credentials import check_credentials
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy
from bot_bottle.network.ports import Port
from bot_bottle.network.probes import Proof
from bot_bottle.network.proxy_address import ADDRESS, proxy_variables
from bot_bottle.secrets.reference import Reference
from bot_bottle.vm.accel import Accel


class ContainerBackend:
    """Implements `backend.base.Backend` with docker or podman."""

    boots_artifact = False

    def check(
        self, egress: Policy, secrets: Sequence[Reference], ports: Sequence[Port], *, archive: bool
    ) -> None:
        """Refuse archives, and with an open network secrets for hosts, and ports. Raises SpecError."""
        if archive:
            raise SpecError(
                "the docker backend cannot run archives",
                next_step="docker load it, and use --image; or use --backend smolmachines",
            )
        check_credentials(egress, secrets)
        if taken := {port.guest for port in ports} & set(egress.host_ports):
            raise SpecError(
                f"port {min(taken)} is published, and is to lead to this machine",
                why="in a container both are ports of its loopback",
                next_step="let the server in the bottle listen on another port",
            )
        if egress.open and ports:
            raise SpecError(
                "--publish does not work with --backend docker and --network open",
                next_step="use --allow instead, or use --backend smolmachines",
            )

    def check_storage(self, mib: int) -> None:
        """Refuse any: an engine does not limit the disk space of a container. Raises SpecError."""
        del mib
        raise SpecError("--storage does not work with --backend docker", next_step="use a microVM")

    def check_ask(self) -> None:
        """Do nothing: the proxy asks."""

    def check_env(self, env: Mapping[str, str]) -> None:
        """Refuse variables that the engine's client would read itself. Raises SpecError."""
        inherited_variables(env)

    def host_overhead_mib(self, _accel: Accel) -> int:
        """Return 0: a container needs no memory besides its own."""
        return 0

    def variables(self, egress: Policy) -> Mapping[str, str]:
        """Return the variables that name the proxy, where there is one."""
        return {} if egress.closed or egress.open else proxy_variables(ADDRESS)

    def start(
        self,
        config: BottleConfig,
        boot: Boot,
        files: EgressFiles,
        run: RunDir,
        progress: Progress,
        accel: Accel,
    ) -> AbstractContextManager[bottle.ContainerBottle]:
        """Create the bottle's container, which starts with its command."""
        del accel  # there is no virtual machine
        return bottle.launch(config, boot.image_id, boot.engine(), run, files, progress)

    def execute(self, machine: Machine, config: BottleConfig, progress: Progress, *, tty: bool) -> int:
        """Run another command in the container, and return its exit status."""
        with rundir.run_dir() as run:
            return bottle.execute(config, _engine(machine, progress), run, tty=tty)

    def probe(self, machine: Machine, policy: Policy, progress: Progress) -> Proof:
        """Probe again from inside what the container can reach."""
        return probes.prove(_engine(machine, progress), machine.name, machine.user, policy)

    def check_can_allow(self, machine: Machine) -> None:
        """Do nothing: the proxy reads its policy file again."""

    def check_can_disallow(self, machine: Machine) -> None:
        """Do nothing: the proxy reads its policy file again."""

    def allow(self, machine: Machine, added: Policy) -> None:
        """Do nothing: the proxy reads its policy file again."""


def _engine(machine: Machine, progress: Progress) -> Engine:
    return find_engine(machine.engine or None, say=progress.note)
