"""The probes inside an emulated microVM before its command starts, and their expected outcomes.

Without a network card every probe is unreachable at once. With a card there is no route beyond QEMU's own
network, in which only the proxy answers: neither the usual gateway, nor the resolver, nor other ports. In an
open network anything may answer but the loopback of this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bot_bottle.backend.direct.network import GATEWAY, PROXY, RESOLVER
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import CLEARED, SHELL, Probe, Proof, canary, judge, prove_patiently, script
from bot_bottle.network.proxy_address import PORT
from bot_bottle.network.proxy_probes import (
    LOOPBACK,
    NOBODY,
    NOWHERE,
    of_host_ports,
    past_proxy,
    through_proxy,
)
from bot_bottle.vm.direct.confine import Confinement
from bot_bottle.vm.direct.container import User, process_document
from bot_bottle.vm.direct.machine import Machine, collect
from bot_bottle.vm.direct.sessions import remote_session

# timeouts of probes in seconds, of one try and the next: emulated processors are slow to begin
_PATIENCE = (5.0, 40.0)
_TIMEOUT = 120.0
_ROOT = User(0, 0, "/root")


def prove(machine: Machine, policy: Policy, *, published: bool) -> Proof:
    """Run the probes in a running guest; again with more time if one fails, as a busy machine may be late.

    `published` says whether it has published ports.
    """

    def run(command: tuple[str, ...]) -> bytes:
        return machine.run(process_document(command, _ROOT, CLEARED, "/"), _TIMEOUT).stdout

    return _proved(run, policy, published=published)


def prove_again(folder: Path, policy: Policy, *, published: bool) -> Proof:
    """Run the probes in the guest of another process, whose machine has this folder. Raises SpecError."""

    def run(command: tuple[str, ...]) -> bytes:
        request = {"command": command, "env": CLEARED, "user": "0", "workdir": "/", "size": None}
        with remote_session(folder, request) as session:
            return collect(session, folder, b"", _TIMEOUT)[1]

    return _proved(run, policy, published=published)


def _proved(run: Callable[[tuple[str, ...]], bytes], policy: Policy, *, published: bool) -> Proof:
    def attempt(seconds: float) -> Proof:
        with canary() as port:
            tried = probes(policy, port, published=published)
            return judge(run((*SHELL, script(tried, seconds=seconds))), tried)

    return prove_patiently(attempt, _PATIENCE)


def confinement(found: Confinement) -> Proof:
    """Return what of QEMU's confinement is in force; where a network needs more, QEMU has not started."""
    outcomes = {
        "user": "ours" if found.user is None else "of its own",
        "namespaces": " ".join(found.namespaces) or "none",
        "landlock": f"version {found.landlock}" if found.landlock else "none",
        "seccomp": "two filters" if found.seccomp else "its own filter",
    }
    return Proof({f"qemu.{name}": (outcome, True) for name, outcome in outcomes.items()})


def probes(policy: Policy, canary: int, *, published: bool) -> list[Probe]:
    """Return the probes; `canary` is a port of the host's loopback that would answer."""
    if policy.open:
        from bot_bottle.vm.direct.passt import frames

        places = {"host-loopback": LOOPBACK, "gateway": frames.GATEWAY, "resolver": frames.RESOLVER}
        return [Probe(name, "tcp", str(address), canary) for name, address in places.items()]
    found = past_proxy(canary)
    if policy.closed and not published:
        gateway = Probe("gateway", "tcp", GATEWAY, canary, accepted=NOWHERE)
        return [Probe("routes", "routes", accepted=NOWHERE), *found, gateway]
    found += [
        Probe("gateway", "tcp", GATEWAY, canary),
        Probe("resolver", "dns", RESOLVER, 53, NOBODY),
        Probe("proxy-canary", "tcp", PROXY, canary),
    ]
    if policy.closed:
        return found
    return [
        *found,
        *through_proxy(policy, canary, PROXY, PORT),
        *of_host_ports(policy, canary, PROXY, PROXY),
    ]
