"""The proxy of a container: a process outside it, and a listening socket made inside its network namespace.

A socket belongs to the network namespace in which it was made, in whatever process it is used. So a program
inside (PROGRAM) makes one that listens and passes it out (unix(7), SCM_RIGHTS). The proxy then needs no
address that both sides reach, and the network of the container no device but loopback.

The proxy takes a while to load. The unix socket through which it gets the others is there before it, and the
kernel holds what is sent to it, and connections to the others, until the proxy takes them. So the bottle is
booted meanwhile.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WallsError
from bot_bottle.host import paths, process
from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.process import Child
from bot_bottle.host.progress import Progress
from bot_bottle.host.redact import Secret
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.threads import calling_when
from bot_bottle.host.unix_sockets import listening_for_all
from bot_bottle.host.wait import wait_until
from bot_bottle.network.audit_log import clear
from bot_bottle.network.authorities import has_own_authorities, write_authorities
from bot_bottle.network.credentials import CredentialStore
from bot_bottle.network.egress_files import EgressFiles
from bot_bottle.network.host_ports import host_services
from bot_bottle.network.policy import Policy, save_policy
from bot_bottle.network.proxy.config import ProxiedSecret, ProxyConfig, ReadingConfig
from bot_bottle.network.proxy.resolver import VARIABLE, parse_resolver
from bot_bottle.network.proxy.upstream import no_proxy, upstream_urls
from bot_bottle.network.proxy_address import ADDRESS, PORT
from bot_bottle.network.values import served
from bot_bottle.secrets.fifo import secret_fifos
from bot_bottle.structs import replace

_SOCKET = "socket"
_TOKEN = "smolvm-token"  # noqa: S105 - the name of a pipe
_UPSTREAM = "upstream proxy "  # and its kind: not the name of a secret, which has no space
_TIMEOUT = 30.0  # seconds
_PAUSE = 0.002


class ProxyProcess(Struct, frozen=True):
    """A proxy that starts, or has. PROGRAM has to see `folder`; `socket` is the path in it."""

    folder: Path
    process: Child
    words: Path
    log: Path

    @property
    def socket(self) -> Path:
        """Where the sockets are passed to on which it is to listen. It removes the path when it does."""
        return self.folder / _SOCKET

    @property
    def started(self) -> bool:
        """Whether it listens."""
        return not self.socket.exists()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.code is not None

    def wait(self) -> None:
        """Wait until it listens, on sockets that have been passed to it. Raises WallsError."""
        wait_until(lambda: self.started or self.ended, _TIMEOUT, pause=_PAUSE)
        self.check()
        if not self.started:
            raise self._not_started()

    def check(self) -> None:
        """Check that it runs. Raises WallsError."""
        if self.ended:
            if not self.started:
                raise self._not_started()
            raise WallsError(
                "the bottle's proxy has exited",
                why=self.complaint(),
                next_step="its network was gone from then on; run the bottle again",
            )

    def forget(self) -> None:
        """Start its log again: the probes made connections."""
        clear(self.log)

    def complaint(self) -> str:
        """Return the end of the proxy's error output; empty as long as all is well."""
        return self.words.read_text("utf-8", "replace")[-2000:].strip()

    def _not_started(self) -> WallsError:
        return WallsError("the bottle's proxy did not start", why=self.complaint())


@contextmanager
def run_proxy(
    policy: Policy,
    record: EgressFiles,
    folder: Path,
    run: RunDir,
    store: CredentialStore,
    progress: Progress,
    services: Mapping[str, str] | None = None,
    token: Secret | None = None,
) -> Iterator[ProxyProcess]:
    """Run a proxy with a policy until the block ends, which has to wait for it. PROGRAM has to see `folder`.

    `services` are those of `proxy.engine.Engine`, besides the policy's ports of this machine. With a `token`
    of a smolvm the proxy waits for sockets on which that hands over connections.

    Raises WallsError when the proxy ends before the block, SpecError for variables with an upstream proxy,
    authorities or a resolver that cannot be used.
    """
    words = run.path / "proxy.log"
    save_policy(replace(policy, reading=bool(store.secrets) or policy.reads_requests), record.policy)
    try:
        with ExitStack() as stack:
            urls = upstream_urls(os.environ)
            values = {each.name: each.value for each in store.secrets}
            values |= {} if token is None else {_TOKEN: token}
            values |= {f"{_UPSTREAM}{kind}": Secret(url) for kind, url in urls.items()}
            pipes = stack.enter_context(secret_fifos(values, run.path)) if values else {}
            config = replace(
                _config(policy, record, run, store, pipes),
                services={**host_services(policy.host_ports), **(services or {})},
                token=pipes.get(_TOKEN),
                upstreams={kind: pipes[f"{_UPSTREAM}{kind}"] for kind in urls},
            )
            config.save(run.path / "proxy.json")
            output = stack.enter_context(words.open("wb"))
            channel = stack.enter_context(_channel(store))
            # open here too until the block ends: with a proxy that ends at once, the program inside does not
            # fail, and the error is the one of the proxy
            server = stack.enter_context(listening_for_all(folder, _SOCKET)).fileno()
            argv = helper("bot_bottle.network.proxy.main", server, folder / _SOCKET, run.path / "proxy.json")
            proxy = process.background(
                argv, env=environment(), output=output, channel=channel, inherited=(server,)
            )
            made = ProxyProcess(folder, stack.enter_context(proxy), words, record.log)
            with _reported(made, progress):
                yield made
            made.check()
    finally:
        record.policy.unlink(missing_ok=True)


@contextmanager
def _channel(store: CredentialStore) -> Iterator[socket.socket | None]:
    """Yield the proxy's end of a channel for values that may change, if there are any."""
    renewals = {each.name: each.renew for each in store.secrets if each.renew is not None}
    if not renewals:
        yield None
        return
    with served(renewals, {each.name: each.value for each in store.secrets}) as channel:
        yield channel


def _reported(proxy: ProxyProcess, progress: Progress) -> AbstractContextManager[None]:
    """Say it at once when a proxy ends that has started: nothing is reached from then on."""
    return calling_when(
        lambda: proxy.ended and proxy.started,
        lambda: progress.warn("the bottle's proxy has exited: nothing can be reached any more"),
    )


def _config(
    policy: Policy, record: EgressFiles, run: RunDir, store: CredentialStore, pipes: Mapping[str, str]
) -> ProxyConfig:
    found = [
        ProxiedSecret(
            each.placeholder, each.hosts, pipes[each.name], each.name, each.body, each.renew is not None
        )
        for each in store.secrets
    ]
    reads = bool(found) or policy.reads_requests
    authorities = None
    if has_own_authorities(os.environ):
        authorities = run.path / "authorities.pem"
        write_authorities(os.environ, authorities)
        if not reads:
            store.bundle.write_bytes(authorities.read_bytes())
            store.bundle.chmod(0o644)
    resolver = os.environ.get(VARIABLE)
    return ProxyConfig(
        str(record.policy),
        str(record.log),
        found,
        ReadingConfig(str(run.folder("authority")), str(store.bundle)) if reads else None,
        ask=None if record.ask is None else str(record.ask),
        authorities=None if authorities is None else str(authorities),
        no_proxy=no_proxy(os.environ),
        resolver=parse_resolver(resolver) if resolver else None,
        usage=str(record.usage) if found and record.usage is not None else None,
        budget=record.budget,
        packages=str(paths.packages_dir()) if policy.caches else None,
    )


# `listen=PATH[,PORT...]`: pass on listening sockets, for a proxy: its own, and those of ports of this
# machine. `connect=PATH`: for every port that is requested, in two bytes, pass on a connection to it, or
# report a failure. Then keep the namespace until terminated.
PROGRAM = f"""\
import signal, socket, sys

def listen(channel, *ports):
    made = [socket.create_server(("{ADDRESS}", port), backlog=128) for port in ({PORT}, *map(int, ports))]
    socket.send_fds(channel, [b"l"], [each.fileno() for each in made])
    for each in made:
        each.close()

def connect(channel):
    while asked := channel.recv(2, socket.MSG_WAITALL):
        try:
            made = socket.create_connection(("{ADDRESS}", int.from_bytes(asked, "big")), 5)
        except OSError:
            channel.sendall(b"n")
        else:
            with made:
                made.settimeout(None)
                socket.send_fds(channel, [b"y"], [made.fileno()])

for word in sys.argv[1:]:
    kind, _, rest = word.partition("=")
    path, *ports = rest.split(",")
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    {{"listen": listen, "connect": connect}}[kind](channel, *ports)
signal.pause()
"""
