"""A policy as smolvm's options, and the probes that show it in force. What smolvm 1.32 really does, as tried:

- `--allow-host NAME` also allows every name below it; `--allow-host-pattern` allows NAME, or `*.NAME` without
  NAME itself. A name leads wherever it resolves to, so the neighbourhood has to be denied; a denial comes
  before anything that is allowed.
- With a pattern, the guest's resolver (wherever it sends its questions) answers for allowed names alone and
  asks nobody about others. Without one it answers for all names.
- A refused connection is reset at once. One that may go is answered before smolvm has dialled, so an address
  where nobody is tells the difference. What is refused over UDP is not answered.
- Ports cannot be told apart, and whoever may talk to an address may ask it for any name.
- There is no IPv6 in such a guest; loopback and link-local addresses of the host are never reached.
- `-p` alone gives a guest such a network, and lets out nothing, no name and no datagram either.
  smolvm listens on 127.0.0.1, and on ::1 where there is one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from bot_bottle.errors import SpecError
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import ANY, Outcome, Probe
from bot_bottle.network.rules import Network

# the resolver of a guest with a network, and the way out of it
GATEWAY = "100.96.0.1"
# names below it are asked for, which nobody allows: smolvm has to tell that it refused them
REFUSED_NAME = "walls.bottle.invalid"
# the probes that ask for one
ASKING = ("dns-udp", "dns-tcp", "refused-host")

# without a pattern every name would be resolved; this one leads nowhere (RFC 6761)
_NO_NAME = "*.nothing.invalid"
_MOST = 100_000  # characters of a command line: one argument of a shell in the emulated host has 131,072

# What an allowed name may not lead to (RFC 6890 and the registries it begot). The ranges of documentation are
# left out: the probes need addresses that only the list of what is allowed keeps closed.
_DENIED = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16"),
        *("fc00::/7", "fe80::/10", "ff00::/8"),
    )
]
_UNREACHABLE = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8")))

# one of the ranges of documentation (RFC 5737), where nobody answers
_PROOF = ipaddress.ip_network("192.0.2.0/24")
_NOBODY = "192.0.2.1"
_ALLOWED_NOBODY = "192.0.2.201"
_DENIED_NOBODY = "192.0.2.202"
_NOBODY_IPV6 = "2001:db8::1"
_METADATA = "169.254.169.254"
_LAN = "192.168.254.253"


def network_argv(policy: Policy) -> tuple[str, ...]:
    """Give the options of `machine create`. Raises SpecError for what smolvm cannot keep."""
    if policy.closed:
        return ()
    if policy.open:
        return ("--net", "--net-backend", "virtio-net")
    argv = _allowing(policy)
    if "--allow-host-pattern" not in argv:
        argv += ["--allow-host-pattern", _NO_NAME]
    for network in (_ALLOWED_NOBODY, _DENIED_NOBODY):
        argv += ["--allow-cidr", f"{network}/32"]
    for denied in (*_denied(policy), f"{_DENIED_NOBODY}/32"):
        argv += ["--deny-cidr", str(denied)]
    if sum(map(len, argv)) > _MOST:
        raise SpecError(
            f"a microVM cannot be held to {len(policy.rules)} entries of egress",
            why=f"smolvm takes them on its command line, {_MOST} characters at most",
            next_step="use patterns such as *.example.org, or --backend docker",
        )
    return tuple(argv)


def widening_argv(added: Policy) -> tuple[str, ...]:
    """Give the options that let a machine which runs reach more: nothing is denied any less.

    Raises SpecError for what smolvm cannot keep, or denies until the machine ends.
    """
    for rule in added.rules:
        if not isinstance(rule.target, str) and any(map(rule.target.overlaps, _DENIED)):
            raise _cannot(str(rule), "smolvm denies it until the bottle ends", "run it again with --allow")
    return tuple(_allowing(added))


def _allowing(policy: Policy) -> list[str]:
    argv: list[str] = []
    for rule in policy.rules:
        if rule.port is not None:
            raise _cannot(str(rule), "smolvm does not tell ports apart", f"name it without :{rule.port}")
        if isinstance(rule.target, str):
            argv += ["--allow-host-pattern", str(rule)]
        else:
            _hold_reachable(rule.target)
            argv += ["--allow-cidr", str(rule.target)]
    return argv


def _hold_reachable(network: Network) -> None:
    if network.version == 6:
        raise _cannot(str(network), "there is no IPv6 in a microVM", "name its IPv4 address")
    if network.overlaps(_PROOF):
        raise _cannot(
            str(network), f"nobody is in {_PROOF}, and the proof of its walls needs it", "take it out"
        )
    for closed in _UNREACHABLE:
        if network.version == closed.version and network.overlaps(closed):
            raise _cannot(str(network), f"smolvm never lets a guest reach {closed}", "take it out")


def _cannot(entry: str, why: str, next_step: str) -> SpecError:
    return SpecError(
        f"a microVM cannot be given {entry}", why=why, next_step=f"{next_step}; or use --backend docker"
    )


def _denied(policy: Policy) -> Iterator[Network]:
    """Give what is denied: all that is, less what is named."""
    rest: list[Network] = list(_DENIED)
    for rule in policy.rules:
        if not isinstance(rule.target, str):
            rest = [part for network in rest for part in _without(network, rule.target)]
    return iter(rest)


def _without(network: Network, named: Network) -> Iterator[Network]:
    if network.version != named.version or not network.overlaps(named):
        yield network
    elif named.prefixlen > network.prefixlen:
        yield from network.address_exclude(named)  # type: ignore[arg-type]


def probes(policy: Policy, loopback_port: int, name: str, *, published: bool = False) -> list[Probe]:
    """Give what is tried in a microVM.

    `loopback_port` listens on the host's loopback; `name` is one that nobody allows, never asked for before.
    With `published` ports there is a network, whatever is allowed.
    """
    if policy.open:
        return []
    alone = policy.closed and not published
    refused: frozenset[Outcome] = frozenset({"unreachable"} if alone else {"refused"})
    found = [
        Probe("ipv4", "tcp", _NOBODY, 443, accepted=refused),
        Probe("ipv6", "tcp", _NOBODY_IPV6, 443),
        Probe("dns-udp", "dns", _NOBODY, 53, name),
        Probe("dns-tcp", "dnstcp", _NOBODY, 53, name),
        Probe("udp-443", "udp", _NOBODY, 443),
        Probe("icmp", "icmp", _NOBODY),
        Probe("host-loopback", "tcp", "127.0.0.1", loopback_port),
        Probe("gateway", "tcp", GATEWAY, loopback_port, accepted=_named(policy, GATEWAY) or refused),
        Probe("lan", "tcp", _LAN, 443, accepted=_named(policy, _LAN) or refused),
        Probe("metadata", "tcp", _METADATA, 80, accepted=refused),
    ]
    if alone:
        return [Probe("routes", "routes", accepted=refused), *found]
    found.append(Probe("refused-host", "tcp", name, 443))
    if policy.closed:
        return found
    named = policy.first_name
    # that it does not answer is no hole, and is only written down
    allowed = [Probe("allowed-host", "tcp", str(named.target), 443, accepted=ANY)] if named else []
    return [
        *found,
        Probe("control", "tcp", _ALLOWED_NOBODY, 443, accepted=frozenset({"open"})),
        Probe("denied", "tcp", _DENIED_NOBODY, 443, accepted=refused),
        *allowed,
    ]


def _named(policy: Policy, address: str) -> frozenset[Outcome] | None:
    """Give what may come of an address that is allowed."""
    return ANY if policy.decide(address, 443).allowed else None
