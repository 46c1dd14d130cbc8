"""The probes of a bottle whose only way out is the proxy: of ways past it, and of what it has to refuse."""

from __future__ import annotations

from bot_bottle.network.host_ports import HOST
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import ANY, CLOSED, Outcome, Probe
from bot_bottle.network.proxy_address import PORT

NOBODY = "bottle-probe.invalid"  # never exists (RFC 2606)
# documentation addresses (RFC 5737, RFC 3849) stand for the internet: no answer from it is needed
FOREIGN, FOREIGN_6 = "192.0.2.1", "2001:db8::1"
METADATA = "169.254.169.254"
LAN = "192.168.1.1"
LOOPBACK = "127.0.0.1"

NOWHERE: frozenset[Outcome] = frozenset({"unreachable"})
REFUSED: frozenset[Outcome] = frozenset({"refused"})


def past_proxy(canary: int) -> list[Probe]:
    """Return the probes of a bottle without a route; `canary` is a port of the host that would answer."""
    return [
        Probe("ipv4", "tcp", FOREIGN, 443, accepted=NOWHERE),
        Probe("ipv6", "tcp", FOREIGN_6, 443, accepted=NOWHERE),
        Probe("dns-udp", "dns", FOREIGN, 53, NOBODY, accepted=NOWHERE),
        Probe("dns-tcp", "dnstcp", FOREIGN, 53, NOBODY, accepted=NOWHERE),
        Probe("udp-443", "udp", FOREIGN, 443, accepted=NOWHERE),
        # without a raw socket ping cannot even try
        Probe("icmp", "icmp", FOREIGN, accepted=NOWHERE | REFUSED),
        Probe("host-loopback", "tcp", LOOPBACK, canary, accepted=REFUSED),
        Probe("lan", "tcp", LAN, 80, accepted=NOWHERE),
        Probe("metadata", "tcp", METADATA, 80, accepted=NOWHERE),
    ]


def through_proxy(policy: Policy, canary: int, address: str, port: int) -> list[Probe]:
    """Return the probes that ask the proxy at this address."""
    asked = {
        "refused-host": (NOBODY, 443),
        "address-of-a-name": (FOREIGN, 443),
        "proxied-loopback": (LOOPBACK, canary),
        "proxied-metadata": (METADATA, 80),
    }
    tried = [
        Probe(name, "proxy", address, port, f"{host}:{to}", accepted=REFUSED)
        for name, (host, to) in asked.items()
        if not policy.decide(host, to).allowed
    ]
    if rule := policy.first_name:
        to = rule.port or 443
        # without the proxy no name resolves; through it, the answer depends on the host
        tried.append(Probe("no-proxy", "tcp", str(rule.target), to, accepted=CLOSED))
        tried.append(Probe("allowed-host", "proxy", address, port, f"{rule.target}:{to}", accepted=ANY))
    return tried


def of_host_ports(policy: Policy, canary: int, proxy: str, machine: str) -> list[Probe]:
    """Return the probes of ports of this machine: the allowed ones answer at `machine`, and no others.

    `proxy` is the address of the proxy.
    """
    if not policy.host_ports:
        return []
    answers: frozenset[Outcome] = frozenset({"open"})
    return [
        *(Probe(f"host-port-{port}", "tcp", machine, port, accepted=answers) for port in policy.host_ports),
        Probe("host-canary", "tcp", machine, canary),
        Probe("host-service", "proxy", proxy, PORT, f"{HOST}:{canary}", accepted=REFUSED),
    ]
