"""A policy as options of smolvm, and the probes that check it. Measured behaviour of smolvm 1.32:

- `--allow-host NAME` also allows every name below it; `--allow-host-pattern` allows NAME, or `*.NAME` without
  NAME itself. A name may resolve to any address, so private ranges have to be denied; a denial has precedence
  over everything that is allowed.
- With a pattern, the guest's resolver (whatever server it asks) answers for allowed names only and does not
  forward others. Without one it answers for all names.
- A refused connection is reset at once. An allowed one is accepted before smolvm has connected, so an address
  without a host shows the difference. Refused UDP is not answered.
- Rules have no ports, methods or paths, and what may connect to an address may use any name there. So these
  are rules beneath those of our proxy, to which smolvm hands over what they allow (see `interceptor`).
- Such a guest has no IPv6; loopback and link-local addresses of the host are never reached. What is allowed
  of these is reached through the proxy's own address alone.
- With an interceptor all datagrams are refused, except for names.
- `-p` alone makes such a network without allowing anything, neither names nor datagrams.
  smolvm listens on 127.0.0.1, and on ::1 where it exists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from bot_bottle.errors import SpecError
from bot_bottle.network.host_ports import HOST as HOST_NAME
from bot_bottle.network.interceptor import HOST, PROVED, PROXY
from bot_bottle.network.policy import Policy
from bot_bottle.network.probes import ANY, Outcome, Probe
from bot_bottle.network.proxy_address import PORT
from bot_bottle.network.proxy_probes import FOREIGN, LOOPBACK, NOBODY, REFUSED
from bot_bottle.network.rules import Network

# the resolver and gateway of a guest with a network
GATEWAY = "100.96.0.1"
# the probes ask for names below it, which no rule allows: smolvm has to report that it refused them
REFUSED_NAME = "probe.bottle.invalid"
# the probes that ask for one
ASKING = ("dns-udp", "dns-tcp", "refused-host")

# without a pattern every name would be resolved; this one resolves to nothing (RFC 6761)
_NO_NAME = "*.nothing.invalid"
_MOST = 100_000  # characters; an argument of a shell in the emulated host has 131,072 at most

# What an allowed name may not resolve to (RFC 6890 and the registries that it created). Documentation ranges
# are left out: the probes need addresses that are closed by the allow list only.
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

# a documentation range (RFC 5737), in which no host answers
_PROOF = ipaddress.ip_network("192.0.2.0/24")
_NOBODY = FOREIGN
_DENIED_NOBODY = "192.0.2.202"
_NOBODY_IPV6 = "2001:db8::1"
_METADATA = "169.254.169.254"
_LAN = "192.168.254.253"


def network_argv(policy: Policy) -> tuple[str, ...]:
    """Return the options of `machine create`: the rules as far as smolvm has them. Raises SpecError."""
    if policy.closed:
        return ()
    if policy.open:
        return ("--net", "--net-backend", "virtio-net")
    argv = _allowing(policy)
    if "--allow-host-pattern" not in argv:
        argv += ["--allow-host-pattern", _NO_NAME]
    for network in (PROVED, PROXY, HOST, _DENIED_NOBODY):
        argv += ["--allow-cidr", f"{network}/32"]
    for denied in (*_denied(policy), f"{_DENIED_NOBODY}/32"):
        argv += ["--deny-cidr", str(denied)]
    if sum(map(len, argv)) > _MOST:
        raise SpecError(
            f"too many --allow entries for a microVM of smolvm: {len(policy.rules)}",
            why=f"smolvm takes them on its command line, {_MOST} characters at most; wider ones"
            " in their place would let its resolver forward queries for names that are not allowed",
            next_step="use patterns such as *.example.org, --accel direct, or --backend docker",
        )
    return tuple(argv)


def widening_argv(added: Policy) -> tuple[str, ...]:
    """Return the options that allow a running machine more; nothing that is denied becomes allowed.

    Raises SpecError for a rule that smolvm denies until the machine ends.
    """
    for rule in added.rules:
        if not isinstance(rule.target, str) and any(map(rule.target.overlaps, _DENIED)):
            raise _cannot(str(rule), "smolvm denies it until the bottle ends", "run it again with --allow")
    return tuple(_allowing(added))


def narrowing_argv(before: Policy, after: Policy) -> tuple[str, ...]:
    """Return the options that take from a running machine what a policy no longer allows."""
    left = _allowing(after)
    options = {"--allow-host-pattern": "--remove-allow-host", "--allow-cidr": "--remove-allow-cidr"}
    allowed = _allowing(before)
    gone = [
        (option, value)
        for option, value in zip(allowed[::2], allowed[1::2], strict=True)
        if value not in left
    ]
    return tuple(word for option, value in gone for word in (options[option], value))


def batches(argv: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield options with their values in parts that fit a command line."""
    part, size = list[str](), 0
    for option, value in zip(argv[::2], argv[1::2], strict=True):
        size += len(option) + len(value)
        if size > _MOST:
            yield tuple(part)
            part, size = [], len(option) + len(value)
        part += (option, value)
    if part:
        yield tuple(part)


def _allowing(policy: Policy) -> list[str]:
    argv: list[str] = []
    for target in dict.fromkeys(rule.target for rule in policy.rules):
        if isinstance(target, str):
            argv += ["--allow-host-pattern", f"*{target}" if target.startswith(".") else target]
        elif _is_reachable(target):
            argv += ["--allow-cidr", str(target)]
    return argv


def _is_reachable(network: Network) -> bool:
    """Return whether smolvm can let a guest reach a range. Raises SpecError for our own."""
    if network.overlaps(_PROOF):
        raise _cannot(str(network), f"{_PROOF} is reserved for bottle's own network probes", "remove it")
    return network.version == 4 and not any(map(network.overlaps, _UNREACHABLE))


def _cannot(entry: str, why: str, next_step: str) -> SpecError:
    return SpecError(
        f"a microVM cannot allow {entry}", why=why, next_step=f"{next_step}; or use --backend docker"
    )


def _denied(policy: Policy) -> Iterator[Network]:
    """Yield the ranges to deny: all private ones, without those that are allowed."""
    rest: list[Network] = list(_DENIED)
    for rule in policy.rules:
        if not isinstance(rule.target, str) and _is_reachable(rule.target):
            rest = [part for network in rest for part in _without(network, rule.target)]
    return iter(rest)


def _without(network: Network, named: Network) -> Iterator[Network]:
    if network.version != named.version or not network.overlaps(named):
        yield network
    elif named.prefixlen > network.prefixlen:
        yield from network.address_exclude(named)  # type: ignore[arg-type]


def probes(policy: Policy, loopback_port: int, name: str, *, published: bool = False) -> list[Probe]:
    """Return the probes of a microVM.

    `loopback_port` listens on the host's loopback; `name` is not allowed, and was never asked for before.
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
    return [
        *found,
        Probe("control", "tcp", PROVED, 443, accepted=frozenset({"open"})),
        Probe("interceptor", "proxy", PROVED, 443, f"{NOBODY}:443", accepted=frozenset({"open"})),
        Probe("denied", "tcp", _DENIED_NOBODY, 443, accepted=refused),
        Probe("host-canary", "proxy", HOST, loopback_port, f"{NOBODY}:443", accepted=REFUSED),
        *_through_proxy(policy, loopback_port),
    ]


def _through_proxy(policy: Policy, loopback_port: int) -> Iterator[Probe]:
    asked = {
        "proxied-host": (NOBODY, 443),
        "proxied-address": (FOREIGN, 443),
        "proxied-loopback": (LOOPBACK, loopback_port),
        "proxied-metadata": (_METADATA, 80),
    }
    if policy.host_ports:
        asked["host-service"] = (HOST_NAME, loopback_port)
    for name, (host, port) in asked.items():
        if not policy.decide(host, port).allowed:
            yield Probe(name, "proxy", PROXY, PORT, f"{host}:{port}", accepted=REFUSED)
    if named := policy.first_name:
        # isolation holds even without an answer; the outcome is only recorded
        yield Probe("allowed-host", "proxy", PROXY, PORT, f"{named.target}:{named.port or 443}", accepted=ANY)


def _named(policy: Policy, address: str) -> frozenset[Outcome] | None:
    """Return the outcomes to expect at an address: any if it is allowed at some port, else None."""
    found = ipaddress.ip_address(address)
    targets = [rule.target for rule in policy.rules if not isinstance(rule.target, str)]
    return ANY if any(found in target for target in targets) else None
