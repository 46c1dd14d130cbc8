"""What every backend does: start a bottle, run one command in it attached to us, leave nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from bot_bottle.errors import Interrupted
from bot_bottle.host import process_tree
from bot_bottle.host.redact import Credential, Secret
from bot_bottle.network.policy import NOTHING, Policy
from bot_bottle.network.ports import Port
from bot_bottle.network.probes import Proof
from bot_bottle.workspace.spec import Mount

_POLL = 0.1

# what docker gives a container whose image names none
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a backend needs to know of a bottle, besides what it boots. Empty: as the image has it."""

    slug: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    user: str
    workdir: str
    cpus: int
    memory_mib: int
    workspace: Mount | None = None
    egress: Policy = NOTHING
    ports: tuple[Port, ...] = ()
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, Credential] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of its machine or container."""
        return f"bottle-{self.slug}"

    def beside(self, command: tuple[str, ...]) -> Launch:
        """Give it for another command, which the secrets are not for."""
        return replace(self, command=command, secrets={})

    def variables(self, *, tty: bool) -> dict[str, str]:
        """Give the command's variables; one with a terminal learns which."""
        terminal = {"TERM": os.environ.get("TERM") or "xterm"} if tty else {}
        return {**terminal, **self.env}


def default_path(env: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that docker adds to a command's own, and smolvm does not."""
    return {} if "PATH" in env else {"PATH": _DEFAULT_PATH}


Begin = Callable[[Proof], None]


class Running(Protocol):
    """A bottle that is up, or about to run its one command."""

    @property
    def place(self) -> str:
        """Where its command runs: in a `container`, on `kvm`, or `emulated`."""

    def run(self, *, tty: bool, begin: Begin = Proof.require) -> int:
        """Run the bottle's command on our own streams and give its exit status.

        `begin` is given what was found of its walls; when it raises, the command does not start.

        The first Ctrl-C (or SIGTERM, SIGHUP) goes to the command; the second raises Interrupted.
        """

    def aside(self, command: tuple[str, ...]) -> int:
        """Run another command before the bottle's own, in all else as that, and leave nothing of it."""


class Waiting(Protocol):
    """A command that is attached to us."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, `timeout` seconds at most, and give its exit status or None."""


def wait(
    attached: Waiting, received: list[int], pass_on: Callable[[int], None], end: Callable[[], None]
) -> int:
    """Wait for a command and give its exit status.

    `received` grows with the signals that reach us: the first is passed on, the second ends the command and
    raises Interrupted.
    """
    passed = False
    while (code := attached.wait(_POLL)) is None:
        if len(received) > 1:
            end()
            raise Interrupted(received[-1])
        if received and not passed:
            passed = True
            pass_on(received[0])
    return code


def owner() -> str:
    """Give a mark of this process that no later one will have."""
    return f"{os.getpid()}.{process_tree.start_time(os.getpid())}"
