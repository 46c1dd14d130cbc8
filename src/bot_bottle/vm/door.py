"""What QEMU may do, and a door in the emulated host's wall: to one port of this machine, and to nothing else.

Inside, 127.0.0.1:PORT answers as it does here. QEMU's user network is restricted: it forwards nothing,
neither to this machine nor beyond, but for one address of its own. Each connection to that is handed to a
program that we name, which connects to the port.

Source: QEMU's manual, `-netdev user` (restrict, guestfwd), `-sandbox`.
"""

from __future__ import annotations

import shlex

from bot_bottle.errors import BootError
from bot_bottle.vm.channel import Control
from bot_bottle.vm.kernel import busybox

_OUTSIDE = "10.0.2.100"  # the door, in the network between QEMU and the emulated host
_INSIDE = "10.0.2.15/24"
_SECONDS = 30.0


def argv(port: int | None) -> list[str]:
    """Give QEMU's options. With a door it may start programs, each in a session of its own: it has to."""
    sandbox = "on,obsolete=deny,resourcecontrol=deny"
    if port is None:
        return ["-sandbox", f"{sandbox},elevateprivileges=deny,spawn=deny"]
    relay = shlex.join([str(busybox()), "nc", "127.0.0.1", str(port)]).replace(",", ",,")
    network = f"user,id=door,restrict=on,ipv6=off,guestfwd=tcp:{_OUTSIDE}:{port}-cmd:{relay}"
    return ["-sandbox", sandbox, "-netdev", network, "-device", "virtio-net-pci,netdev=door,romfile="]


def open_inside(control: Control, port: int) -> None:
    """Have the port answer on the emulated host's own loopback. Raises BootError."""
    script = (
        f"ip addr add {_INSIDE} dev eth0 && ip link set eth0 up || exit 1\n"
        f"nc -ll -p {port} -e nc {_OUTSIDE} {port} &\n"
        f"until nc -w 1 127.0.0.1 {port} </dev/null; do sleep 0.1; done"
    )
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host cannot reach the registry", next_step="try again")
