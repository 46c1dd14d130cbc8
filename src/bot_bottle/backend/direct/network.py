"""The network of a directly booted microVM: none, or one in which nothing but the proxy answers.

Where a host is allowed or a port is published, QEMU has a network namespace without any device but loopback,
and a network card for the guest whose user network is restricted (QEMU's manual, `-netdev user`): it forwards
nothing, but for one address. Each connection to that address is handed to a program that QEMU starts, which
connects to the socket that the proxy has in the namespace (see `network.proxy_process`, `vm.direct.confine`).
So are connections to the allowed ports of this machine, at a second address.
For a published port QEMU listens in the namespace, and a process there connects to it for each client.

So root in the guest reaches nothing else, and a guest that has taken over QEMU does not either.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from bot_bottle.backend.base import BottleConfig
from bot_bottle.errors import SpecError
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.policy import Policy
from bot_bottle.network.ports import allocate_host_ports
from bot_bottle.network.proxy.config import PORT
from bot_bottle.network.proxy_process import (
    ADDRESS,
    EgressFiles,
    ProxyProcess,
    proxy_variables,
    run_proxy,
)
from bot_bottle.network.published import NAME, forwarded
from bot_bottle.network.toolkit import prepare_toolkit
from bot_bottle.vm.direct.confine import Relay
from bot_bottle.vm.direct.qemu import BUSES

# of QEMU's user network, by default
GATEWAY, RESOLVER, PROXY, THIS_MACHINE = "10.0.2.2", "10.0.2.3", "10.0.2.100", "10.0.2.101"
_GUEST = "10.0.2.15"
_FIRST_PORT = 20_000  # in the namespace, for the first published port

# QEMU may start programs with the first, in sessions of their own (setsid is one of the privileges that it
# could deny). What these may be, `vm.direct.confine` says.
_SPAWNING = "on,obsolete=deny,resourcecontrol=deny"
_SANDBOX = f"{_SPAWNING},elevateprivileges=deny,spawn=deny"

_SETUP = f"ip addr add {_GUEST}/24 dev eth0 && ip link set eth0 up\n"


@dataclass(frozen=True, slots=True)
class Network:
    """What QEMU and its guest need for the network.

    `kind` and `relay` are for `confined`, as are `readable` and `executable`; `options` and `sandbox` are
    QEMU's; `setup` is a script for the guest, before its container starts.
    """

    kind: Literal["none", "relayed"] = "none"
    relay: Relay | None = None
    options: tuple[str, ...] = ()
    sandbox: str = _SANDBOX
    readable: tuple[Path, ...] = ()
    executable: tuple[Path, ...] = ()
    setup: str = ""
    proxy: ProxyProcess | None = None

    def check(self) -> None:
        """Check that the proxy runs, if there is one. Raises WallsError."""
        if self.proxy is not None:
            self.proxy.check()

    def forget(self) -> None:
        """Start the log of refused connections again: the probes were refused some."""
        if self.proxy is not None:
            self.proxy.forget()


def check_network(egress: Policy) -> None:
    """Refuse a policy that cannot be enforced here. Raises SpecError."""
    if egress.open:
        raise SpecError(
            "--network open does not work in a microVM that QEMU emulates",
            why="QEMU's own network leads root in it to the loopback of this machine, and through a proxy"
            " only programs that use one would have a network",
            next_step="allow hosts instead (--allow); or use --accel nested, which is slower",
        )


def network_variables(egress: Policy) -> Mapping[str, str]:
    """Return the variables that name the proxy, where there is one."""
    return {} if egress.closed or egress.open else proxy_variables(PROXY)


@contextmanager
def network(
    launch: BottleConfig, record: EgressFiles, run: RunDir, store: CredentialStore, progress: Progress
) -> Iterator[Network]:
    """Yield the network of a bottle that is to be booted in the block, and that ends with it.

    Raises SpecError, WallsError.
    """
    egress, ports = launch.egress, allocate_host_ports(launch.ports)
    check_network(egress)
    if egress.closed and not ports:
        yield Network()
        return
    folder = run.folder("sockets")
    with ExitStack() as stack:
        made = None
        user = [f"ipv6=off,restrict=on,host={GATEWAY},dns={RESOLVER}"]
        tools: tuple[Path, ...] = ()
        if not egress.closed:
            proxy = run_proxy(egress, record, folder, run, store, progress, launch.services)
            made = stack.enter_context(proxy)
            tools = (prepare_toolkit(progress),)
            user += _leading_out(tools[0], egress.host_ports)
        free = (number for number in count(_FIRST_PORT) if number not in egress.host_ports)
        inner = dict(zip((port.guest for port in ports), free, strict=False))
        user += [f"hostfwd=tcp:{ADDRESS}:{number}-{_GUEST}:{guest}" for guest, number in inner.items()]
        if ports:
            stack.enter_context(forwarded(ports, folder, run, progress))
        relay = Relay(
            listen=None if made is None else made.socket,
            port=PORT,
            more=egress.host_ports,
            connect=folder / NAME if ports else None,
            ports=inner,
        )
        yield Network(
            "relayed",
            relay,
            (
                "-netdev",
                ",".join(("user,id=network", *user)),
                "-device",
                f"virtio-net-device,{BUSES['network']},netdev=network",
            ),
            _SANDBOX if egress.closed else _SPAWNING,
            tools,
            tuple(folder / "ld.so" for folder in tools),
            _SETUP,
            made,
        )


def _leading_out(tools: Path, host_ports: Sequence[int]) -> Iterator[str]:
    """Yield what QEMU's user network leads to the namespace: the proxy, and ports of this machine."""
    yield f"guestfwd=tcp:{PROXY}:{PORT}-cmd:{_relay(tools, PORT)}"
    for port in host_ports:
        yield f"guestfwd=tcp:{THIS_MACHINE}:{port}-cmd:{_relay(tools, port)}"


def _relay(tools: Path, port: int) -> str:
    """Return the command line that QEMU starts for a connection to the namespace, as its option has it."""
    command = (tools / "ld.so", "--library-path", tools, tools / "busybox", "nc", ADDRESS, port)
    return shlex.join(map(str, command)).replace(",", ",,")
