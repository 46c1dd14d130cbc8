"""The network of smolvm's microVM: every connection is handed over to the bottle's proxy.

See `network.interceptor`. On KVM smolvm connects to a socket on this machine's loopback, for which only it
has the token. We have the socket open as well, so that no other program gets its port, and with it
connections, when the proxy has ended. In an emulated host it is a socket in QEMU's network namespace, and so
is that of the host's name server.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from msgspec import Struct

from bot_bottle.backend.base import BottleConfig
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import Secret
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.unix_sockets import connect
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.interceptor import TOKEN, make_token
from bot_bottle.network.proxy_process import ProxyProcess, run_proxy
from bot_bottle.network.published import NAME, forwarded
from bot_bottle.vm.emulated.namespace import Namespace
from bot_bottle.vm.emulated.qemu import interceptor_address

_ADDRESS = "127.0.0.1"


class Network(Struct, frozen=True):
    """What smolvm hands connections over to: none, if nothing may be reached.

    `namespace` is for the emulated host. `env` are variables for smolvm's start.
    """

    address: str = ""
    token: Secret | None = None
    proxy: ProxyProcess | None = None
    namespace: Namespace | None = None
    listener: socket.socket | None = None

    @property
    def env(self) -> Mapping[str, str]:
        """Variables for smolvm's start."""
        return {} if self.token is None else {TOKEN: self.token.reveal()}

    def wait(self) -> None:
        """Wait for the proxy, if there is one: once its sockets are passed to it. Raises WallsError."""
        if self.proxy is not None:
            self.proxy.wait()

    def check(self) -> None:
        """Check that the proxy runs, if there is one. Raises WallsError."""
        if self.proxy is not None:
            self.proxy.check()

    @property
    def ended(self) -> bool:
        """Whether the proxy has ended."""
        return self.proxy is not None and self.proxy.ended

    def refuse(self) -> None:
        """Close the connections that nobody has accepted, where the proxy has ended."""
        if self.listener is not None:
            with suppress(OSError):  # there are no more
                self.listener.setblocking(False)
                while True:
                    self.listener.accept()[0].close()

    def forget(self) -> None:
        """Start the log of connections again: the probes made some."""
        if self.proxy is not None:
            self.proxy.forget()


@contextmanager
def network(
    launch: BottleConfig,
    record: EgressFiles,
    run: RunDir,
    store: CredentialStore,
    progress: Progress,
    *,
    nested: bool,
) -> Iterator[Network]:
    """Yield the network of a bottle that is to be booted in the block, and that ends with it.

    An open one is only handed over where credentials have to be put into requests. The proxy is not waited
    for.
    """
    egress = launch.egress
    if egress.closed or (egress.open and not store.secrets):
        yield Network()
        return
    folder = run.folder("sockets")
    token = Secret(make_token())
    with ExitStack() as stack:
        proxy = run_proxy(egress, record, folder, run, store, progress, launch.services, token)
        made = stack.enter_context(proxy)
        if not nested:
            listener = stack.enter_context(socket.create_server((_ADDRESS, 0), backlog=128))
            _pass_on(listener, made)
            address = f"{_ADDRESS}:{listener.getsockname()[1]}"
            yield Network(address, token, made, listener=listener)
            return
        if launch.ports:
            stack.enter_context(forwarded(launch.ports, folder, run, progress))
        namespace = Namespace(
            made.socket, folder / NAME if launch.ports else None, [port.guest for port in launch.ports]
        )
        yield Network(interceptor_address(), token, made, namespace)


def _pass_on(listener: socket.socket, proxy: ProxyProcess) -> None:
    """Pass a listening socket on to the proxy."""
    with connect(proxy.folder, proxy.socket.name) as channel:
        socket.send_fds(channel, [b"l"], [listener.fileno()])
