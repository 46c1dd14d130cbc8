"""What QEMU may do, and the doors in the emulated host's wall: to a port, to a network, and from ports.

To one port: inside, 127.0.0.1:PORT answers as it does here. QEMU's user network is restricted: it forwards
nothing, neither to this machine nor beyond, but for one address of its own. Each connection to that is handed
to a program that we name, which connects to the port.

To a network: QEMU makes the connections that the emulated host asks for, as this process could. smolvm in it
lets the guest have those that are allowed and no others. This machine's loopback, which QEMU shows as an
address of its own, is closed in the emulated host besides, whatever the guest may reach.

From ports of this machine's loopback: QEMU listens there, and connects to the emulated host for whoever
comes. smolvm in it listens on that host's own loopback alone, so a program in between hands connections on.
They have a card of their own, restricted again: by it the emulated host can answer, and begin nothing.
Whoever comes has QEMU's address there, and so not the one that is closed beside a network.

Source: QEMU's manual, `-netdev user` (restrict, guestfwd, hostfwd), `-sandbox`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bot_bottle.errors import BootError
from bot_bottle.vm.emulated.channel import Control
from bot_bottle.vm.emulated.kernel import busybox

_OUTSIDE = "10.0.2.100"  # the door, in the network between QEMU and the emulated host
_INSIDE = "10.0.2.15/24"
_SECONDS = 30.0

# of the range for benchmarks of networks (RFC 2544), so that it is nobody's LAN
_NETWORK = "198.18.0.0/24"
_LOOPBACK, _RESOLVER, _OWN = "198.18.0.2", "198.18.0.3", "198.18.0.15"
_PORTS, _THRESHOLD = "198.18.1.0/24", "198.18.1.15"

# in the emulated host, for the first published port: where QEMU connects to, and where smolvm listens
_ENTRANCE, _PUBLISHED = 10_000, 20_000


def argv(port: int | None, *, network: bool, published: Sequence[int] = ()) -> list[str]:
    """Give QEMU's options. With a door to a port it may start programs, in sessions of their own."""
    sandbox = "on,obsolete=deny,resourcecontrol=deny"
    if port is not None:
        relay = shlex.join([str(busybox()), "nc", "127.0.0.1", str(port)]).replace(",", ",,")
        forwarded = f"guestfwd=tcp:{_OUTSIDE}:{port}-cmd:{relay}"
        return ["-sandbox", sandbox, *_card("door", f"restrict=on,{forwarded}")]
    options = ["-sandbox", f"{sandbox},elevateprivileges=deny,spawn=deny"]
    if network:
        options += _card("network", f"net={_NETWORK},host={_LOOPBACK},dns={_RESOLVER}")
    if published:
        pairs = enumerate(published, _ENTRANCE)
        ports = [f"hostfwd=tcp:127.0.0.1:{outer}-{_THRESHOLD}:{inner}" for inner, outer in pairs]
        options += _card("ports", ",".join((f"restrict=on,net={_PORTS}", *ports)))
    return options


def _card(name: str, user: str) -> list[str]:
    return ["-netdev", f"user,id={name},ipv6=off,{user}", "-device", f"virtio-net-pci,netdev={name},romfile="]


def open_inside(control: Control, port: int) -> None:
    """Have the port answer on the emulated host's own loopback. Raises BootError."""
    script = (
        f"ip addr add {_INSIDE} dev eth0 && ip link set eth0 up || exit 1\n"
        f"nc -ll -p {port} -e nc {_OUTSIDE} {port} &\n"
        f"until nc -w 1 127.0.0.1 {port} </dev/null; do sleep 0.1; done"
    )
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host cannot reach the registry", next_step="try again")


def join_network(control: Control) -> None:
    """Let the emulated host use the network, all but this machine's loopback. Raises BootError."""
    script = (
        f"ip addr add {_OWN}/24 dev eth0 && ip link set eth0 up && ip route add default via {_LOOPBACK} && "
        f"ip route add prohibit {_LOOPBACK}/32 && echo nameserver {_RESOLVER} > /etc/resolv.conf"
    )
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host has no network", next_step="try again")


def let_in(control: Control, count: int) -> None:
    """Hand what comes for the first `count` published ports on to smolvm. Raises BootError."""
    script = (
        "card=$(ls -d /sys/class/net/eth* | tail -n 1) && card=${card##*/}\n"  # the last of two, or the one
        f'ip addr add {_THRESHOLD}/24 dev "$card" && ip link set "$card" up || exit 1\n'
    )
    for number in range(count):
        script += f"nc -ll -p {_ENTRANCE + number} -e nc 127.0.0.1 {inside(number)} &\n"
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host cannot publish ports", next_step="try again")


def inside(number: int) -> int:
    """Give the port of the emulated host's loopback for one of the published, by its place among them."""
    return _PUBLISHED + number
