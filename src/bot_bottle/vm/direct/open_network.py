"""An open network for a guest that QEMU runs: passt connects for it from this machine's own network.

QEMU stays without any network: it has a unix socket, behind which a process of ours filters what the guest
sends before passt gets it (see `passt.server`), so that this machine's loopback stays closed. passt confines
itself, without root (its manual, passt(1)).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import SpecError, WallsError
from bot_bottle.host import process
from bot_bottle.host.bare_helper import bare_helper
from bot_bottle.host.process import Child
from bot_bottle.host.progress import Progress
from bot_bottle.host.system_errors import ALLOW_NAMESPACES
from bot_bottle.host.threads import calling_when
from bot_bottle.host.wait import wait_until
from bot_bottle.vm.direct.passt import SOCKET
from bot_bottle.vm.direct.passt.frames import (
    GATEWAY,
    GATEWAY_6,
    GUEST,
    GUEST_6,
    NETWORK,
    NETWORK_6,
    RESOLVER,
)
from bot_bottle.vm.direct.qemu import BUSES

INSTALL = "sudo apt-get install --no-install-recommends passt"
PROGRAM = "passt"

_START = 60.0  # seconds
_LOG = "passt.log"
_LOG_SHOWN = 2000
_HARDWARE_ADDRESS = "52:55:c6:33:64:01"  # of the gateway: not this machine's own, which names it
# One frame then fits a buffer of a unix socket (UNIX_SKB_FRAGS_SZ in Linux), so that passt has it whole
_LONGEST_PACKET = 16_000
# Bytes that a connection may have on its way from passt to the guest: with more passt fills its socket, drops
# packets and waits for a timer. It has no effect on what is on its way to this machine.
_WINDOW = 512 << 10
_RESOLVERS = Path("/etc/resolv.conf")
_ROUTES_6 = Path("/proc/net/ipv6_route")
_LARGEST = 1 << 16
# what to do, by a word of passt's
_STEPS = {"namespace": ALLOW_NAMESPACES, "routable": "give this machine a default route (ip route)"}


class OpenNetwork(Struct, frozen=True):
    """An open network, for one guest. Made by `open_network`.

    `setup` is a script for the guest, and `resolvers` its resolv.conf(5).
    """

    setup: str
    resolvers: str

    # of QEMU, whose current folder is `folder`
    options = (
        "-netdev",
        f"stream,id=network,server=off,addr.type=unix,addr.path={SOCKET}",
        "-device",
        f"virtio-net-device,{BUSES['network']},netdev=network",
    )


def find_passt() -> Path:
    """Find passt. Raises SpecError with the package to install when it is missing."""
    found = process.find(PROGRAM)
    if found is None:
        raise SpecError(
            "--network open needs passt in a microVM that QEMU emulates",
            why="QEMU's own network leads root in it to the loopback of this machine",
            next_step=f"{INSTALL}; or allow hosts instead (--allow)",
        )
    return found


@contextmanager
def open_network(folder: Path, ports: Mapping[int, int], progress: Progress) -> Iterator[OpenNetwork]:
    """Connect a guest until the block ends; QEMU is to be started in it, in `folder`.

    `ports` maps ports of this machine's loopback to those of the guest to which they lead. Raises SpecError,
    and WallsError also when passt ends before the block.
    """
    has_ipv6 = _has_route_6(_ROUTES_6)
    passt = passt_argv(find_passt(), ports, ipv6=has_ipv6)
    asked = {"parent": os.getpid(), "folder": str(folder.absolute()), "passt": passt}
    argv = process.ShownAs(bare_helper("bot_bottle.vm.direct.passt.server", asked), passt)
    with (folder / _LOG).open("wb") as log, process.background(argv, output=log) as child:
        wait_until(lambda: (folder / SOCKET).exists() or child.code is not None, _START, pause=0.002)
        if child.code is not None or not (folder / SOCKET).exists():
            words = _words(folder)
            steps = [step for word, step in _STEPS.items() if word in words]
            raise WallsError(
                "passt did not start, which makes the open network",
                why=words,
                next_step="; or ".join((*steps, "allow hosts instead (--allow)")),
            )
        with _reported(child, progress):
            yield OpenNetwork(_setup(ipv6=has_ipv6), resolvers(_read(_RESOLVERS), ipv6=has_ipv6))
        if child.code:
            raise WallsError("the bottle's network has ended", next_step="run the bottle again")


def _reported(child: Child, progress: Progress) -> AbstractContextManager[None]:
    """Say it at once when the network ends before QEMU does."""
    return calling_when(
        lambda: bool(child.code),
        lambda: progress.warn("the bottle's network has ended: nothing can be reached any more"),
    )


def passt_argv(passt: Path, ports: Mapping[int, int], *, ipv6: bool) -> list[str]:
    """Return passt's command line, but for its socket."""
    argv = [str(passt), "--foreground", "--quiet", "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"]
    argv += ["--mac-addr", _HARDWARE_ADDRESS, "--dns-forward", str(RESOLVER)]
    argv += ["--address", str(GUEST), "--netmask", str(NETWORK.prefixlen), "--gateway", str(GATEWAY)]
    argv += ["--address", str(GUEST_6), "--gateway", str(GATEWAY_6)] if ipv6 else ["--ipv4-only"]
    published = [f"127.0.0.1/{port}:{guest}" for port, guest in ports.items()] or ["none"]
    argv += [word for each in published for word in ("--tcp-ports", each)]
    return [*argv, "--udp-ports", "none"]


def resolvers(text: str, *, ipv6: bool) -> str:
    """Return a guest's resolv.conf(5), made of this machine's.

    A resolver on this machine's loopback is not reached from the guest, and passt asks it instead.
    """
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line.startswith(("search ", "domain ", "options "))]
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    usable = [each for each in servers if _is_usable(each, ipv6=ipv6)] or [str(RESOLVER)]
    return "".join(f"{line}\n" for line in (*(f"nameserver {each}" for each in usable), *kept))


def _is_usable(server: str, *, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    alone = address.is_loopback or address.is_link_local or address.is_unspecified
    return not alone and (ipv6 or address.version == 4)


def _setup(*, ipv6: bool) -> str:
    lines = [
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad",  # nobody else has the address
        f"echo 4096 131072 {_WINDOW} >/proc/sys/net/ipv4/tcp_rmem",  # also of IPv6 (tcp(7))
        f"ip link set eth0 mtu {_LONGEST_PACKET} up",
        f"ip addr add {GUEST}/{NETWORK.prefixlen} dev eth0",
        f"ip route add default via {GATEWAY}",
    ]
    if ipv6:
        lines.append(f"ip addr add {GUEST_6}/{NETWORK_6.prefixlen} dev eth0")
        lines.append(f"ip route add default via {GATEWAY_6}")
    return " && ".join(lines) + " || exit 1\n"


def _has_route_6(routes: Path) -> bool:
    """Return whether this machine has a route to all of IPv6 (proc(5))."""
    default = f"{0:032x} 00 "
    lines = _read(routes).splitlines()
    return any(line.startswith(default) and not line.endswith(" lo") for line in lines)


def _read(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        return file.read(_LARGEST).decode("utf-8", "replace")
    return ""


def _words(folder: Path) -> str:
    """Return passt's messages, except those about a missing system log."""
    lines = _read(folder / _LOG)[-_LOG_SHOWN:].splitlines()
    return "\n".join(line for line in lines if not line.endswith(" to syslog"))
