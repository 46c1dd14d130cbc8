"""QEMU: its command line and networks for an emulated host.

The emulated host has no network unless one of these is asked for; each has a network card of its own.

To one port: inside, 127.0.0.1:PORT answers as it does here. QEMU's user network is restricted: it forwards
nothing, neither to this machine nor beyond, but for one address of its own. Each connection to that address
is handed to a program that we name, which connects to the port.

To a network: QEMU makes the connections that the emulated host asks for, as this process could. smolvm in it
lets the guest make those that are allowed and no others. This machine's loopback, which QEMU shows as an
address of its own, is closed in the emulated host as well, whatever the guest may reach.

To the bottle's proxy: QEMU is in a network namespace in which only sockets of the proxy listen (see
`namespace`). The emulated host finds them at an address of 127.0.0.0/8, since smolvm takes no other for an
interceptor: there, that network is on the card, but for 127.0.0.1 itself.

From ports of this machine's loopback: QEMU listens there, and connects to the emulated host for each client.
smolvm in it listens on that host's own loopback alone, so a program in between passes connections on. The
card is restricted too: through it the emulated host can answer, but cannot start a connection. Clients have
QEMU's address there, which is not the one that is closed for a network.

Source: QEMU's manual, `-netdev user` (restrict, guestfwd, hostfwd), `-sandbox`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bot_bottle.errors import BootError
from bot_bottle.vm import console, qemu_program
from bot_bottle.vm.emulated.channel import CONSOLE, PORTS, Control
from bot_bottle.vm.emulated.kernel import busybox
from bot_bottle.vm.emulated.namespace import INTERCEPTOR_PORT

# The ticks are periodic because emulated interrupts get lost: QEMU notes one in a word that the entry into a
# nested guest changes too, without a lock (7.2: helper_vmrun, interrupt_request). Where the next tick is due
# only when the last one has been handled, a processor whose tick was lost stands still for good.
# Without a check of the timer: at the boot the kernel counts ticks for a moment, and panics when it sees too
# few, as happens where QEMU has to wait for a processor (Linux, check_timer in io_apic.c).
KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 nohz=off highres=off no_timer_check"

_REGISTRY = "10.0.2.100"  # in the network between QEMU and the emulated host: it leads to the port
_REGISTRY_CLIENT = "10.0.2.15/24"
_SECONDS = 30.0

# from the range for network benchmarks (RFC 2544), so that it is nobody's LAN
_NETWORK = "198.18.0.0/24"
_LOOPBACK, _RESOLVER, _OWN = "198.18.0.2", "198.18.0.3", "198.18.0.15"
_PROXIED, _PROXY, _NO_RESOLVER, _PROXIED_OWN = "127.77.0.0/24", "127.77.0.2", "127.77.0.3", "127.77.0.15"
_PORTS_NETWORK, _PORTS_ADDRESS = "198.18.1.0/24", "198.18.1.15"

# For the first published port: where QEMU connects to in the emulated host, and where smolvm listens in it.
# In a namespace QEMU itself listens on the first, too.
FIRST_FORWARDED, _FIRST_PUBLISHED = 10_000, 20_000


def find_qemu() -> Path:
    """Find QEMU. Raises AccelError when it is not installed."""
    return qemu_program.find_qemu("a host with KVM", "qemu-system-x86 busybox-static")


def processor_argv(count: int) -> list[str]:
    """Return the options for processors that have what KVM needs.

    With two, about every tenth nested guest ended in the middle of its boot or its work, and sometimes the
    emulated host with it. With one, none of a hundred did: each was up in up to 1.6 times the time, and two
    of them beside each other took no longer. A guest of several processors, as smolvm has one for packing,
    needs two: with one it comes up in minutes or not at all.
    """
    return ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(count)]


def qemu_argv(
    image: Path,
    initramfs: Path,
    disk: Path,
    memory_mib: int,
    exchange: Path | None,
    networks: Sequence[str],
    processors: int = 1,
) -> list[str]:
    """Return QEMU's command line. Paths of sockets are relative to its folder: they have to be short."""
    argv = [str(find_qemu()), *processor_argv(processors)]
    argv += ["-m", f"{memory_mib}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-serial", f"file:{console.NAME}"]
    argv += networks
    argv += ["-kernel", str(image), "-initrd", str(initramfs), "-append", KERNEL_ARGUMENTS]
    argv += ["-drive", f"file={_escaped(disk)},if=virtio,format=raw,snapshot=on,cache=unsafe"]
    argv += ["-virtfs", f"{_share('share', Path('share'))},readonly=on"]
    if exchange is not None:
        argv += ["-virtfs", _share("exchange", exchange)]
    argv += ["-device", "virtio-serial-pci,max_ports=16"]
    for name in (*PORTS, CONSOLE):
        argv += ["-chardev", f"socket,id={name},path={name},server=on,wait=off"]
    for name in PORTS:
        argv += ["-device", f"virtserialport,chardev={name},name={name}"]
    return [*argv, "-device", f"virtconsole,chardev={CONSOLE}"]


def _share(tag: str, folder: Path) -> str:
    return f"local,path={_escaped(folder)},mount_tag={tag},security_model=none,multidevs=remap"


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def network_options(
    port: int | None, *, network: bool, proxied: bool = False, published: Sequence[int] = ()
) -> list[str]:
    """Return QEMU's options for networks and its sandbox. `published` are ports of QEMU's own loopback.

    With access to a port, QEMU may start programs, in sessions of their own.
    """
    sandbox = "on,obsolete=deny,resourcecontrol=deny"
    if port is not None:
        relay = shlex.join([str(busybox()), "nc", "127.0.0.1", str(port)]).replace(",", ",,")
        forwarded = f"guestfwd=tcp:{_REGISTRY}:{port}-cmd:{relay}"
        return ["-sandbox", sandbox, *_card("registry", f"restrict=on,{forwarded}")]
    options = ["-sandbox", f"{sandbox},elevateprivileges=deny,spawn=deny"]
    if network:
        options += _card("network", f"net={_NETWORK},host={_LOOPBACK},dns={_RESOLVER}")
    if proxied:
        options += _card("network", f"net={_PROXIED},host={_PROXY},dns={_NO_RESOLVER}")
    if published:
        pairs = enumerate(published, FIRST_FORWARDED)
        ports = [f"hostfwd=tcp:127.0.0.1:{outer}-{_PORTS_ADDRESS}:{inner}" for inner, outer in pairs]
        options += _card("ports", ",".join((f"restrict=on,net={_PORTS_NETWORK}", *ports)))
    return options


def _card(name: str, user: str) -> list[str]:
    return ["-netdev", f"user,id={name},ipv6=off,{user}", "-device", f"virtio-net-pci,netdev={name},romfile="]


def forward_registry_port(control: Control, port: int) -> None:
    """Make the port answer on the emulated host's own loopback. Raises BootError."""
    script = (
        f"ip addr add {_REGISTRY_CLIENT} dev eth0 && ip link set eth0 up || exit 1\n"
        f"nc -ll -p {port} -e nc {_REGISTRY} {port} &\n"
        f"until nc -w 1 127.0.0.1 {port} </dev/null; do sleep 0.1; done"
    )
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host cannot reach the registry", next_step="try again")


def interceptor_address() -> str:
    """Return where smolvm in the emulated host connects to the proxy as its interceptor."""
    return f"{_PROXY}:{INTERCEPTOR_PORT}"


def configure_network(control: Control, *, proxied: bool) -> None:
    """Connect the emulated host to the network, except to this machine's loopback. Raises BootError.

    `proxied`: to the sockets of the proxy, and to nothing else.
    """
    if proxied:
        script = (
            "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet && "
            "ip route del local 127.0.0.0/8 dev lo table local && "
            f"ip addr add {_PROXIED_OWN}/24 dev eth0 && ip link set eth0 up && "
            f"echo nameserver {_PROXY} > /etc/resolv.conf"
        )
    else:
        script = (
            f"ip addr add {_OWN}/24 dev eth0 && ip link set eth0 up && "
            f"ip route add default via {_LOOPBACK} && ip route add prohibit {_LOOPBACK}/32 && "
            f"echo nameserver {_RESOLVER} > /etc/resolv.conf"
        )
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host has no network", next_step="try again")


def forward_published_ports(control: Control, count: int) -> None:
    """Forward connections to the first `count` published ports to smolvm. Raises BootError."""
    script = (
        "card=$(ls -d /sys/class/net/eth* | tail -n 1) && card=${card##*/}\n"  # the last of two, or the one
        f'ip addr add {_PORTS_ADDRESS}/24 dev "$card" && ip link set "$card" up || exit 1\n'
    )
    for number in range(count):
        script += f"nc -ll -p {FIRST_FORWARDED + number} -e nc 127.0.0.1 {published_port(number)} &\n"
    if control.wait(control.send("quiet", script), _SECONDS) != 0:
        raise BootError("the emulated host cannot publish ports", next_step="try again")


def published_port(number: int) -> int:
    """Return the port of the emulated host's loopback for a published port, by its index among them."""
    return _FIRST_PUBLISHED + number
