"""The network of a directly booted microVM: none, or one in which nothing but the proxy answers.

Where a host is allowed or a port is published, QEMU has a network namespace without any device but loopback,
and the guest a network card. QEMU makes the guest's connections itself (QEMU's manual, `-netdev user`), with
sockets of that namespace. Those to PROXY go to its loopback, where the sockets of the proxy are: of the HTTP
proxy, and of the allowed ports of this machine (see `network.proxy_process`, `vm.direct.confine`). For all
others the namespace has no route, also for what QEMU would send to a resolver. So root in the guest reaches
nothing else, and a guest that has taken over QEMU does not either.

For a published port QEMU listens at a second address of the loopback, and a process there connects to it for
each client.

An open network is not QEMU's: see `vm.direct.open_network`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.policy import Policy
from bot_bottle.network.ports import Port, allocate_host_ports
from bot_bottle.network.proxy_address import PORT, proxy_variables
from bot_bottle.network.published import NAME, forwarded
from bot_bottle.vm.direct.confine import Relay
from bot_bottle.vm.direct.confinement import PUBLISHED
from bot_bottle.vm.direct.qemu import BUSES

if TYPE_CHECKING:
    from bot_bottle.network.proxy_process import ProxyProcess

# of QEMU's user network. GATEWAY is there by default, and leads to loopback; here PROXY does instead
GATEWAY, RESOLVER, PROXY = "10.0.2.2", "10.0.2.3", "10.0.2.100"
_GUEST = "10.0.2.15"
_FIRST_PORT = 20_000  # in the namespace, for the first published port

_SETUP = f"ip addr add {_GUEST}/24 dev eth0 && ip link set eth0 up\n"
_RESOLVERS = "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"  # as smolvm has them, with a network or without


class Network(Struct, frozen=True):
    """What QEMU and its guest need for the network.

    `kind` and `relay` are for `confined`, `options` are QEMU's, and `setup` is a script for the guest, before
    its container starts. `resolvers` is the container's resolv.conf(5).
    """

    kind: Literal["none", "relayed"] = "none"
    relay: Relay | None = None
    options: tuple[str, ...] = ()
    setup: str = ""
    resolvers: str = _RESOLVERS
    proxy: ProxyProcess | None = None

    def wait(self) -> None:
        """Wait for the proxy, if there is one: once QEMU runs. Raises WallsError."""
        if self.proxy is not None:
            self.proxy.wait()

    def forget(self) -> None:
        """Start the log of refused connections again: the probes were refused some."""
        if self.proxy is not None:
            self.proxy.forget()


def network_variables(egress: Policy) -> Mapping[str, str]:
    """Return the variables that name the proxy, where there is one."""
    return {} if egress.closed or egress.open else proxy_variables(PROXY)


@contextmanager
def network(
    launch: BottleConfig,
    record: EgressFiles,
    run: RunDir,
    machine: Path,
    store: CredentialStore,
    progress: Progress,
) -> Iterator[Network]:
    """Yield the network of a bottle that is to be booted in the block, and that ends with it.

    `machine` is QEMU's folder. Raises SpecError, WallsError.
    """
    ports = allocate_host_ports(launch.ports)
    with ExitStack() as stack:
        if launch.egress.open:
            from bot_bottle.vm.direct.open_network import open_network  # only here: few bottles have one

            leading = {port.host: port.guest for port in ports}
            opened = stack.enter_context(open_network(machine, leading, progress))
            for port in ports:
                progress.note(port.describe())
            yield Network(options=opened.options, setup=opened.setup, resolvers=opened.resolvers)
        elif launch.egress.closed and not ports:
            yield Network()
        else:
            yield stack.enter_context(_relayed(launch, ports, record, run, store, progress))


@contextmanager
def _relayed(
    launch: BottleConfig,
    ports: Sequence[Port],
    record: EgressFiles,
    run: RunDir,
    store: CredentialStore,
    progress: Progress,
) -> Iterator[Network]:
    """Yield a network in which allowed hosts are reached through the proxy, and published ports answer."""
    egress = launch.egress
    folder = run.folder("sockets")
    with ExitStack() as stack:
        made = None
        user = [f"ipv6=off,host={PROXY},dns={RESOLVER}"]
        if not egress.closed:
            from bot_bottle.network.proxy_process import run_proxy  # only here: most bottles have none

            proxy = run_proxy(egress, record, folder, run, store, progress, launch.services)
            made = stack.enter_context(proxy)
        inner = dict(zip((port.guest for port in ports), count(_FIRST_PORT), strict=False))
        user += [f"hostfwd=tcp:{PUBLISHED}:{number}-{_GUEST}:{guest}" for guest, number in inner.items()]
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
            _SETUP,
            proxy=made,
        )
