"""The walls of a microVM: tried from inside, compared with what smolvm refused, and what it refuses later."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bot_bottle.backend.base import BottleConfig
from bot_bottle.errors import BottleError, SmolvmError
from bot_bottle.host.progress import Progress
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.wait import wait_until
from bot_bottle.network import smolvm_policy as microvm
from bot_bottle.network.audit_log import Log
from bot_bottle.network.policy import Policy, save_policy
from bot_bottle.network.probes import CLEARED, KIT, SECONDS, SHELL, Proof, canary, judge, script
from bot_bottle.network.proxy_process import Record
from bot_bottle.network.toolkit import kit
from bot_bottle.vm.host import Host
from bot_bottle.vm.smolvm import events_argv, exec_argv, update_argv

# seconds that a probe is waited for, at one try and the next: what is busy or emulated takes long to begin
_PATIENCE = {"kvm": (SECONDS, 4 * SECONDS, 20.0), "emulated": (5.0, 40.0)}
_TIMEOUT = 120.0
_PAUSE = {"kvm": 1.0, "emulated": 5.0}  # seconds between two looks at what was refused
# seconds until a refusal has to be in smolvm's list; it gets there some time after the guest was answered
_LISTED = {"kvm": 20.0, "emulated": 60.0}


def kit_volume(host: Host, progress: Progress) -> str:
    """Return the volume that shows a machine what its probes are run with."""
    return f"{host.tools(kit(progress))}:{KIT}:ro"


def prove(machine: str, policy: Policy, host: Host, *, published: bool) -> Proof:
    """Try every wall of a machine that runs; again if one seems to be down because nothing moved.

    `published` says whether it has ports of this machine.
    Raises SmolvmError when the probes could not be run.
    """
    proof = Proof({})
    for seconds in _PATIENCE[host.kind]:
        proof = _tried(machine, policy, host, seconds, published=published)
        if proof.holds or any(outcome == "open" and not ok for outcome, ok in proof.results.values()):
            return proof
    return proof


def _tried(machine: str, policy: Policy, host: Host, seconds: float, *, published: bool) -> Proof:
    name = f"{secrets.token_hex(4)}.{microvm.REFUSED_NAME}"
    with canary() as port:
        probes = microvm.probes(policy, port, name, published=published)
        if not probes:
            return Proof({})
        command = (*SHELL, script(probes, seconds=seconds))
        args = exec_argv(machine, command, tty=False, user="0", workdir="/", empty=tuple(CLEARED))
        proof = judge(host.call(args, timeout=_TIMEOUT, check=False).stdout, probes)
    if policy.closed and not published:
        return proof
    # a probe that was ended before it asked leaves nothing to be listed
    asked = any(proof.results[each][0] not in ("silent", "error") for each in microvm.ASKING)
    listed = _lists(machine, host, name, _LISTED[host.kind] if asked else 0.0)
    return Proof({**proof.results, "resolver": ("refused" if listed else "silent", listed)})


def _lists(machine: str, host: Host, name: str, seconds: float) -> bool:
    """Return whether smolvm lists that it refused to look a name up, within so many seconds."""
    return wait_until(
        lambda: any(event.get("dest") == name for event in _refusals(machine, host)),
        seconds,
        pause=_PAUSE[host.kind] / 2,
    )


def widen(machine: str, added: Policy, host: Host) -> None:
    """Let a machine that runs reach more. Raises SpecError for what cannot be changed, SmolvmError."""
    host.call(update_argv(machine, microvm.widening_argv(added)), timeout=_TIMEOUT)


@contextmanager
def recorded(launch: BottleConfig, host: Host, record: Record) -> Iterator[None]:
    """Write down what a machine may reach, and what it is refused from now on, until the block ends.

    Raises SmolvmError.
    """
    known = _refusals(launch.name, host)
    over = threading.Event()

    def look() -> None:
        nonlocal known
        with suppress(BottleError):  # the next look finds what this one has missed
            found = _refusals(launch.name, host)
            for event in _new(known, found):
                name, port = _destination(str(event.get("dest")))
                log.refused(name, port, "it is not allowed", when=str(event.get("timestamp"))[:30])
            known = found

    def watch() -> None:
        while not over.wait(_PAUSE[host.kind]):
            look()

    with Log(record.log) as log:
        save_policy(launch.egress, record.policy)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            with defer_signals():
                over.set()
                watcher.join(_TIMEOUT)
                look()
                record.policy.unlink(missing_ok=True)


def _new(known: list[Any], found: list[Any]) -> list[dict[str, Any]]:
    """Return what is at the end of a list and was not in an earlier one, of which the oldest may be gone."""
    for gone in range(len(known)):
        if known[gone:] == found[: len(known) - gone]:
            return found[len(known) - gone :]
    return found


def _destination(text: str) -> tuple[str, int]:
    """Return host and port; a name that was asked for has none."""
    host, colon, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (text, 0)


def _refusals(machine: str, host: Host) -> list[dict[str, Any]]:
    """Return what smolvm refused a machine: `timestamp`, `operation`, `dest`; the newest last.

    Raises SmolvmError.
    """
    done = host.call(events_argv(machine), timeout=_TIMEOUT)
    try:
        return [event for event in json.loads(done.stdout) if isinstance(event, dict)]
    except (ValueError, TypeError) as error:
        raise SmolvmError("smolvm gives no list of what it refused", why=str(error)) from error
