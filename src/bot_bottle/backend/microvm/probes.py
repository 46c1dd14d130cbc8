"""The probes of a microVM, compared with smolvm's list of refusals, and the log of what it refuses later."""

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
from bot_bottle.network.probes import (
    CLEARED,
    SECONDS,
    SHELL,
    TOOLKIT,
    Proof,
    canary,
    judge,
    prove_patiently,
    script,
)
from bot_bottle.network.proxy_process import EgressFiles
from bot_bottle.network.toolkit import prepare_toolkit
from bot_bottle.vm.host import Host
from bot_bottle.vm.smolvm import events_argv, exec_argv, update_argv

# timeouts of probes in seconds, of one try and the next: a busy or emulated machine is slow to begin
_PATIENCE = {"kvm": (SECONDS, 4 * SECONDS, 20.0), "nested": (5.0, 40.0)}
_TIMEOUT = 120.0
_PAUSE = {"kvm": 1.0, "nested": 5.0}  # seconds between two readings of the refusals
# seconds until a refusal has to be in smolvm's list; it is added some time after the guest was answered
_LISTED = {"kvm": 20.0, "nested": 60.0}


def toolkit_volume(host: Host, progress: Progress) -> str:
    """Return the volume with which a machine gets the programs of its probes."""
    return f"{host.tools(prepare_toolkit(progress))}:{TOOLKIT}:ro"


def prove(machine: str, policy: Policy, host: Host, *, published: bool) -> Proof:
    """Run the probes in a running machine; again with more time if one fails, as a busy machine may be late.

    `published` says whether it has published ports. Raises SmolvmError when the probes could not be run.
    """
    return prove_patiently(
        lambda seconds: _tried(machine, policy, host, seconds, published=published), _PATIENCE[host.kind]
    )


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


def add_rules(machine: str, added: Policy, host: Host) -> None:
    """Add rules to a running machine. Raises SpecError for what cannot be changed, SmolvmError."""
    host.call(update_argv(machine, microvm.widening_argv(added)), timeout=_TIMEOUT)


@contextmanager
def record_denials(launch: BottleConfig, host: Host, record: EgressFiles) -> Iterator[None]:
    """Write the policy of a machine, and log what it is refused from now on, until the block ends.

    Raises SmolvmError.
    """
    known = _refusals(launch.name, host)
    over = threading.Event()

    def look() -> None:
        nonlocal known
        with suppress(BottleError):  # the next reading finds what this one has missed
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
    """Return the new events of a list; the oldest of the earlier list may have been dropped."""
    for gone in range(len(known)):
        if known[gone:] == found[: len(known) - gone]:
            return found[len(known) - gone :]
    return found


def _destination(text: str) -> tuple[str, int]:
    """Return host and port; a name that was to be resolved has none."""
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
        raise SmolvmError("cannot read smolvm's list of refused connections", why=str(error)) from error
