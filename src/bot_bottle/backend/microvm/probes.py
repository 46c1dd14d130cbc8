"""The probes of a microVM, compared with smolvm's list of refusals."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from bot_bottle.errors import SmolvmError
from bot_bottle.host.wait import wait_until
from bot_bottle.network import smolvm_policy as microvm
from bot_bottle.network.interceptor import HOST
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import (
    BUSYBOX,
    CLEARED,
    SECONDS,
    SHELL,
    Proof,
    canary,
    judge,
    prove_patiently,
    script,
)
from bot_bottle.vm.host import Host
from bot_bottle.vm.smolvm import events_argv, exec_argv

# timeouts of probes in seconds, of one try and the next: a busy or emulated machine is slow to begin
_PATIENCE = {"kvm": (SECONDS, 4 * SECONDS, 20.0), "nested": (5.0, 40.0)}
TIMEOUT = 120.0
PAUSE = {"kvm": 1.0, "nested": 5.0}  # seconds between two readings of the refusals
# seconds until a refusal has to be in smolvm's list; it is added some time after the guest was answered
_LISTED = {"kvm": 20.0, "nested": 60.0}


def prove(
    machine: str, policy: Policy, host: Host, *, published: bool, services: Iterable[str] = ()
) -> Proof:
    """Run the probes in a running machine; again with more time if one fails, as a busy machine may be late.

    `published` says whether it has published ports. `services` are names that lead to this machine's services
    from then on. Raises SmolvmError when the probes could not be run.
    """
    before = _hosts_script(sorted(set(services)))
    return prove_patiently(
        lambda seconds: _tried(machine, policy, host, seconds, before, published=published),
        _PATIENCE[host.kind],
    )


def _hosts_script(names: Sequence[str]) -> str:
    """Return the script that adds names to the machine's hosts file (hosts(5)), unless they are there."""
    line = f"{HOST} {' '.join(names)}"
    there = f"{' '.join(BUSYBOX)} grep -qxF '{line}' /etc/hosts"
    return f"{there} || echo '{line}' >>/etc/hosts\n" if names else ""


def _tried(
    machine: str, policy: Policy, host: Host, seconds: float, before: str, *, published: bool
) -> Proof:
    name = f"{secrets.token_hex(4)}.{microvm.REFUSED_NAME}"
    with canary() as port:
        probes = microvm.probes(policy, port, name, published=published)
        if not probes:
            return Proof({})
        command = (*SHELL, before + script(probes, seconds=seconds))
        args = exec_argv(machine, command, tty=False, user="0", workdir="/", empty=tuple(CLEARED))
        proof = judge(host.call(args, timeout=TIMEOUT, check=False).stdout, probes)
    if policy.closed and not published:
        return proof
    # a probe that was ended before it asked leaves nothing to be listed
    asked = any(proof.results[each][0] not in ("silent", "error") for each in microvm.ASKING)
    listed = _lists(machine, host, name, _LISTED[host.kind] if asked else 0.0)
    return Proof({**proof.results, "resolver": ("refused" if listed else "silent", listed)})


def _lists(machine: str, host: Host, name: str, seconds: float) -> bool:
    """Return whether smolvm lists that it refused to look a name up, within so many seconds."""
    return wait_until(
        lambda: any(event.get("dest") == name for event in refusals(machine, host)),
        seconds,
        pause=PAUSE[host.kind] / 2,
    )


def refusals(machine: str, host: Host) -> list[dict[str, Any]]:
    """Return what smolvm refused a machine: `timestamp`, `operation`, `dest`; the newest last.

    Raises SmolvmError.
    """
    done = host.call(events_argv(machine), timeout=TIMEOUT)
    try:
        return [event for event in json.loads(done.stdout) if isinstance(event, dict)]
    except (ValueError, TypeError) as error:
        raise SmolvmError("cannot read smolvm's list of refused connections", why=str(error)) from error
