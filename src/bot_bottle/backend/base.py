"""The interface of a backend: it starts a bottle, runs one command attached to us, and leaves nothing.

Two classes implement `Backend`: a hardened container and a microVM. No other module asks which one it has.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from bot_bottle.errors import Interrupted, TimeLimitError
from bot_bottle.host import process_tree
from bot_bottle.host.durations import human_duration
from bot_bottle.host.redact import Secret
from bot_bottle.network.credentials import ProxiedCredential, variables
from bot_bottle.network.policy import NOTHING, Policy
from bot_bottle.network.ports import Port
from bot_bottle.network.probes import Proof
from bot_bottle.secrets.credential import Credential
from bot_bottle.structs import replace
from bot_bottle.workspace.spec import Mount

if TYPE_CHECKING:
    from bot_bottle.engine.engine import Engine
    from bot_bottle.host.process import Completed
    from bot_bottle.host.progress import Progress
    from bot_bottle.host.rundir import RunDir
    from bot_bottle.network.egress_files import EgressFiles
    from bot_bottle.secrets.reference import Reference
    from bot_bottle.vm.accel import Accel

_POLL = 0.1
_GRACE = 10.0  # seconds between SIGTERM and the end of a command that ran for too long

# docker's default for an image without PATH
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class BottleConfig:
    """What a backend needs to know of a bottle, besides what it boots. Empty: as in the image.

    `before` is put before the arguments of the command. `services` are the sockets of this machine that its
    proxy leads to, by `NAME:PORT`. `timeout` are the most seconds for the command, None without a limit.
    """

    slug: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    user: str
    workdir: str
    cpus: int
    memory_mib: int
    storage_mib: int | None = None
    workspace: Mount | None = None
    egress: Policy = NOTHING
    ports: tuple[Port, ...] = ()
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, Credential] = field(default_factory=dict, repr=False)
    before: tuple[str, ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)
    timeout: int | None = None

    @property
    def name(self) -> str:
        """The name of its machine or container."""
        return machine_name(self.slug)

    def for_command(self, command: tuple[str, ...]) -> BottleConfig:
        """Return the configuration for another command, which gets no secrets."""
        return replace(self, command=command, secrets={}, before=())

    def variables(self, *, tty: bool) -> dict[str, str]:
        """Return the command's variables; one with a terminal also gets TERM."""
        terminal = {"TERM": os.environ.get("TERM") or "xterm"} if tty else {}
        return {**terminal, **self.env}


def with_placeholders(config: BottleConfig) -> tuple[list[ProxiedCredential], BottleConfig]:
    """Return the secrets that only the proxy has, and a configuration with what the bottle has instead."""
    found = [
        ProxiedCredential(name, each.hosts, each.value, each.body, each.renew)
        for name, each in config.credentials.items()
    ]
    return found, replace(config, env={**variables(found, config.egress), **config.env})


def machine_name(slug: str) -> str:
    """Return the name of a bottle's container or microVM."""
    return f"bottle-{slug}"


def default_path(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that docker adds to a command's own, and smolvm does not."""
    return {} if "PATH" in env else {"PATH": _DEFAULT_PATH}


Place = Literal["container", "kvm", "direct", "nested"]
PLACES: tuple[Place, ...] = ("container", "kvm", "direct", "nested")

OnProved = Callable[[Proof], None]
"""Called with the result of the probes before the command, which does not start if it raises."""


class Boot(Struct, frozen=True):
    """What a bottle is started from: an image of an engine, and for a microVM the artifact made from it.

    `engine` returns the engine; only a backend that needs one calls it.
    """

    image_id: str
    artifact: Path | None
    engine: Callable[[], Engine]


class Machine(Struct, frozen=True):
    """A running bottle as other commands see it. `engine` is docker or podman, "" for a microVM.

    `user` and `workdir` are those of its own command; `published` says whether it has published ports.
    """

    slug: str
    place: Place
    engine: str
    user: str
    workdir: str
    published: bool

    @property
    def name(self) -> str:
        """The name of its container or microVM."""
        return machine_name(self.slug)


class RunningBottle(Protocol):
    """A bottle that is running, or about to run its command."""

    @property
    def place(self) -> Place:
        """Where its command runs."""

    def run(self, *, tty: bool, on_proved: OnProved = Proof.require) -> int:
        """Run the bottle's command on our own streams and return its exit status.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted. Raises
        TimeLimitError for a command that ran for longer than its limit.
        """

    def run_before(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in the same environment; nothing of it remains."""

    def run_after(self, command: tuple[str, ...]) -> Completed:
        """Run another command as the same user, with the files that the bottle's own has left.

        That has exited. It gets no input, and its result is returned. Raises BottleError.
        """


class Backend(Protocol):
    """A way to run bottles."""

    @property
    def boots_artifact(self) -> bool:
        """Whether it boots a `.smolmachine`; otherwise it runs the image in the engine."""

    def check(
        self, egress: Policy, secrets: Sequence[Reference], ports: Sequence[Port], *, archive: bool
    ) -> None:
        """Refuse what this backend cannot do, before anything is created. Raises SpecError.

        `archive` says whether the image is in an archive instead of an engine.
        """

    def check_storage(self, mib: int) -> None:
        """Refuse a limit of the disk space that cannot be in force. Raises SpecError."""

    def check_ask(self) -> None:
        """Refuse to ask about connections, where the backend cannot. Raises SpecError."""

    def check_env(self, env: Mapping[str, str]) -> None:
        """Refuse variables that this backend cannot pass to a command. Raises SpecError."""

    def host_overhead_mib(self, accel: Accel) -> int:
        """Return the MiB of memory that a bottle needs besides its own. Raises AccelError."""

    def variables(self, egress: Policy) -> Mapping[str, str]:
        """Return the variables by which programs in a bottle find the proxy."""

    def start(
        self,
        config: BottleConfig,
        boot: Boot,
        files: EgressFiles,
        run: RunDir,
        progress: Progress,
        accel: Accel,
    ) -> AbstractContextManager[RunningBottle]:
        """Start a bottle; however the block ends, nothing of it remains.

        Its network policy is in force when the block begins. `files` are its policy and its log of refused
        connections.
        """

    def execute(self, machine: Machine, config: BottleConfig, progress: Progress, *, tty: bool) -> int:
        """Run another command in a bottle of another process, and return its exit status.

        Raises SpecError where the bottle cannot run one.
        """

    def probe(self, machine: Machine, policy: Policy, progress: Progress) -> Proof:
        """Probe again from inside what a running bottle can reach. Raises SpecError where it cannot."""

    def check_can_allow(self, machine: Machine) -> None:
        """Raise SpecError where nothing more can be allowed to a running bottle."""

    def check_can_disallow(self, machine: Machine) -> None:
        """Raise SpecError where rules cannot be removed from a running bottle."""

    def allow(self, machine: Machine, added: Policy) -> None:
        """Apply added rules to a running bottle, where its policy file is not enough. Raises SpecError."""


class AttachedCommand(Protocol):
    """A command attached to our streams."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its exit, `timeout` seconds at most, and return its exit status or None."""


def wait(
    attached: AttachedCommand,
    received: list[int],
    pass_on: Callable[[int], None],
    end: Callable[[], None],
    timeout: int | None = None,
) -> int:
    """Wait for a command and return its exit status.

    `received` is the list of signals that reach us: the first is passed on, the second ends the command and
    raises Interrupted. After `timeout` seconds the command gets SIGTERM, is ended if that does not end it,
    and TimeLimitError is raised.
    """
    passed, late = False, False
    begun = time.monotonic()
    while (code := attached.wait(_POLL)) is None:
        if len(received) > 1:
            end()
            raise Interrupted(received[-1])
        if received and not passed:
            passed = True
            pass_on(received[0])
        if timeout is None or (over := time.monotonic() - begun - timeout) < 0:
            continue
        if not late:
            late = True
            with suppress(Interrupted):  # it could not be signalled, and was ended
                pass_on(signal.SIGTERM)
        elif over >= _GRACE:
            end()
            break
    if timeout is not None and late:
        raise TimeLimitError(
            f"the command ran for longer than {human_duration(timeout)}, and was ended",
            next_step="allow it more with --timeout",
        )
    assert code is not None  # noqa: S101 - only a command that is late is left without one
    return code


def process_identity() -> str:
    """Return what identifies this process: its pid and start time."""
    return f"{os.getpid()}.{process_tree.start_time(os.getpid())}"
