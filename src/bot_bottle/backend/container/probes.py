"""The probes inside a container before its command starts, and their expected outcomes.

Its network has no device but loopback, so that every direct connection is unreachable at once, on every
machine. Requests that must be refused go to the proxy.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot_bottle.backend.container.privileges import SCRIPT, judge_privileges
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import EngineError
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import CLEARED, SHELL, Probe, Proof, canary, judge, script
from bot_bottle.network.proxy_address import ADDRESS, PORT
from bot_bottle.network.proxy_probes import NOWHERE, of_host_ports, past_proxy, through_proxy

_GATEWAY = "172.17.0.1"  # docker's own bridge, by default

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
        Probe("routes", "routes", accepted=NOWHERE),
        *past_proxy(canary),
        Probe("gateway", "tcp", _GATEWAY, canary, accepted=NOWHERE),
    ]
    if policy.closed:
        return direct
    return [
        *direct,
        *through_proxy(policy, canary, ADDRESS, PORT),
        *of_host_ports(policy, canary, ADDRESS, ADDRESS),
    ]
