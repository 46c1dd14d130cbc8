"""The probes inside a container before its command starts, and their expected outcomes.

Its network has no device but loopback, so that every direct connection is unreachable at once, on every
machine; documentation addresses (RFC 5737, RFC 3849) stand for the internet, and no answer from the internet
is needed. Requests that must be refused go to the proxy.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot_bottle.backend.container.privileges import SCRIPT, judge_privileges
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import (
    ANY,
    CLEARED,
    CLOSED,
    SHELL,
    Outcome,
    Probe,
    Proof,
    canary,
    judge,
    script,
)
from bot_bottle.network.proxy_process import ADDRESS, PORT

_NOWHERE: frozenset[Outcome] = frozenset({"unreachable"})
_REFUSED: frozenset[Outcome] = frozenset({"refused"})
_NOBODY = "bottle-probe.invalid"  # never exists (RFC 2606)
_FOREIGN, _FOREIGN_6 = "192.0.2.1", "2001:db8::1"
_METADATA = "169.254.169.254"
_LAN, _GATEWAY = "192.168.1.1", "172.17.0.1"  # docker's own bridge, by default

_TIMEOUT = 60.0  # seconds


def prove(engine: Engine, container: str, user: str, policy: Policy) -> Proof:
    """Run the probes in a running container. Raises EngineError."""
    with canary() as port:
        tried = probes(policy, port)
        return judged(_run(engine, container, user, inside(tried)), tried)


def prove_privileges(engine: Engine, container: str, user: str) -> Proof:
    """Check the privileges of a user's command in a running container. Raises EngineError."""
    return judge_privileges(_run(engine, container, user, SCRIPT))


def _run(engine: Engine, container: str, user: str, text: str) -> bytes:
    options = [f"--env={name}={value}" for name, value in CLEARED.items()]
    options += [f"--user={user}"] if user else []
    done = engine.containers.output_of(container, [*SHELL, text], options, timeout=_TIMEOUT)
    if done.code:
        raise EngineError(f"{engine.name} could not run a command in {container}", why=done.complaint)
    return done.stdout


def inside(tried: Sequence[Probe]) -> str:
    """Return the shell script that the entrypoint runs before the command: privileges and network."""
    return SCRIPT + script(tried)


def judged(output: bytes, tried: Sequence[Probe]) -> Proof:
    """Compare its output with what is accepted."""
    return judge(output, tried) | judge_privileges(output)


def probes(policy: Policy, canary: int) -> list[Probe]:
    """Return the probes; `canary` is a port of the host's loopback that would answer."""
    if policy.open:
        return []
    direct = [
        Probe("routes", "routes", accepted=_NOWHERE),
        Probe("ipv4", "tcp", _FOREIGN, 443, accepted=_NOWHERE),
        Probe("ipv6", "tcp", _FOREIGN_6, 443, accepted=_NOWHERE),
        Probe("dns-udp", "dns", _FOREIGN, 53, _NOBODY, accepted=_NOWHERE),
        Probe("dns-tcp", "dnstcp", _FOREIGN, 53, _NOBODY, accepted=_NOWHERE),
        Probe("udp-443", "udp", _FOREIGN, 443, accepted=_NOWHERE),
        # without a raw socket ping cannot even try
        Probe("icmp", "icmp", _FOREIGN, accepted=_NOWHERE | _REFUSED),
        Probe("host-loopback", "tcp", ADDRESS, canary, accepted=_REFUSED),
        Probe("gateway", "tcp", _GATEWAY, canary, accepted=_NOWHERE),
        Probe("lan", "tcp", _LAN, 80, accepted=_NOWHERE),
        Probe("metadata", "tcp", _METADATA, 80, accepted=_NOWHERE),
    ]
    return direct if policy.closed else [*direct, *_through_proxy(policy, canary)]


def _through_proxy(policy: Policy, canary: int) -> list[Probe]:
    asked = {
        "refused-host": (_NOBODY, 443),
        "address-of-a-name": (_FOREIGN, 443),
        "proxied-loopback": (ADDRESS, canary),
        "proxied-metadata": (_METADATA, 80),
    }
    tried = [
        Probe(name, "proxy", ADDRESS, PORT, f"{host}:{port}", accepted=_REFUSED)
        for name, (host, port) in asked.items()
        if not policy.decide(host, port).allowed
    ]
    if rule := policy.first_name:
        port = rule.port or 443
        # without the proxy no name resolves; through it, the answer depends on the host
        tried.append(Probe("no-proxy", "tcp", str(rule.target), port, accepted=CLOSED))
        tried.append(Probe("allowed-host", "proxy", ADDRESS, PORT, f"{rule.target}:{port}", accepted=ANY))
    return tried
