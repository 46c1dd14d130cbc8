"""The proxy's process: a helper (see `host.helper_process`) with the arguments DESCRIPTOR, SOCKET and CONFIG.

DESCRIPTOR is of a unix socket, which listens at the path SOCKET. There it receives the sockets on which it
listens itself. They were made inside the bottle's network namespace (see `proxy_process`): on the first it is
an HTTP proxy, on others the service of their port. For a microVM of smolvm they are those of `intercepted`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bot_bottle.network.asking import Questions
from bot_bottle.network.audit_log import Log
from bot_bottle.network.host_ports import HOST
from bot_bottle.network.proxy.config import ProxyConfig, load_config
from bot_bottle.network.proxy.credentials import Credentials, ValueChannel
from bot_bottle.network.proxy.engine import Engine, Reading
from bot_bottle.network.proxy.metering import Meter
from bot_bottle.network.proxy.outside import Outside
from bot_bottle.network.proxy.resolver import Resolver
from bot_bottle.network.proxy.server import serve_proxy
from bot_bottle.network.proxy.tunnel import serve_tunnel
from bot_bottle.network.proxy.upstream import Exceptions, parse_upstream

if TYPE_CHECKING:
    from bot_bottle.network.proxy.package_cache import PackageCache

_CHANNEL = 0  # the descriptor of standard input
_MOST_SOCKETS = 65
_SPARE = 64  # descriptors that are not for connections
_MOST_CONNECTIONS = 4096

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listeners:
    """The sockets on which connections of the bottle are accepted."""

    def __init__(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 2 * _MOST_CONNECTIONS + _SPARE
        soft = max(soft, min(most, hard if hard != resource.RLIM_INFINITY else most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._most = (soft - _SPARE) // 2
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Listeners:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def add(self, listener: socket.socket, serve: Serve) -> None:
        """Serve the connections of a listening socket, as many at once as descriptors allow."""

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._tasks) >= self._most:
                writer.transport.abort()
                return
            task = asyncio.create_task(_serve(serve, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._servers.append(await asyncio.start_server(accepted, sock=listener))


async def _serve(serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # the bottle has broken off
        await serve(reader, writer)
    writer.transport.close()


async def run(server: socket.socket, path: Path, config: ProxyConfig) -> None:
    """Serve what is passed to `server`, which is at `path`, until SIGTERM."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine = make_engine(config)
    if engine.reading is not None:
        await engine.reading.reader(engine)  # writes what the bottle needs before it starts
    async with Listeners() as listeners:
        sockets = await loop.run_in_executor(None, receive_sockets, server)
        loop.add_signal_handler(signal.SIGTERM, ended.set)  # until here there is nothing to be ended
        if config.token is not None:
            await _intercept(listeners, engine, Path(config.token).read_text("ascii"), sockets)
        else:
            first, *others = sockets
            await listeners.add(first, lambda reader, writer: serve_proxy(engine, reader, writer))
            for each in others:
                await listeners.add(each, _service(engine, each.getsockname()[1]))
        path.unlink()  # its removal says that all of them are served
        await ended.wait()
        engine.meter.save()


async def _intercept(
    listeners: Listeners, engine: Engine, token: str, sockets: Sequence[socket.socket]
) -> None:
    """Serve what smolvm hands over on the first socket; on others, if there are any, questions for names."""
    from bot_bottle.network.name_server import NameServer  # only here: most bottles have no smolvm
    from bot_bottle.network.proxy.intercepted import Interceptor

    interceptor = Interceptor(engine, token)
    first, *others = sockets
    await listeners.add(first, interceptor.serve)
    server = NameServer(interceptor.find)
    for each in others:
        if each.type == socket.SOCK_DGRAM:
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, sock=each)
        else:
            await listeners.add(each, server.serve)


def _service(engine: Engine, port: int) -> Serve:
    return lambda reader, writer: serve_tunnel(engine, reader, writer, HOST, port)


def make_engine(config: ProxyConfig) -> Engine:
    """Return the engine of a configuration; credentials are read from their pipes."""
    values = [(each, Path(each.pipe).read_bytes()) for each in config.secrets]
    outside = _outside(config)
    log = Log(Path(config.log), [*(value.decode() for _, value in values), *outside.secrets])
    changing = any(each.changes for each in config.secrets)
    engine = Engine(
        Path(config.policy),
        log,
        outside,
        services=config.services,
        credentials=Credentials(values, ValueChannel(_CHANNEL) if changing else None, log.hide),
        questions=Questions(Path(config.ask) if config.ask else None),
        reading=Reading(config.reading, config.authorities) if config.reading else None,
        meter=Meter(config.budget, Path(config.usage) if config.usage else None),
    )
    if config.packages is not None:
        engine.packages = _package_cache(engine, Path(config.packages), config.authorities)
    return engine


def _package_cache(engine: Engine, folder: Path, authorities: str | None) -> PackageCache:
    from bot_bottle.cache.packages import PackageStore  # only here: most bottles cache none
    from bot_bottle.network.proxy.package_cache import PackageCache

    return PackageCache(engine, PackageStore(folder), authorities)


def _outside(config: ProxyConfig) -> Outside:
    upstreams = {kind: parse_upstream(Path(pipe).read_text()) for kind, pipe in config.upstreams.items()}
    return Outside(
        Resolver(*config.resolver) if config.resolver else None,
        upstreams,
        Exceptions(config.no_proxy),
        config.authorities,
    )


def receive_sockets(server: socket.socket) -> list[socket.socket]:
    """Wait for the sockets that were made inside the bottle's network namespace (unix(7), SCM_RIGHTS)."""
    with server:
        connection, _ = server.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, _MOST_SOCKETS)
    listeners = [socket.socket(fileno=each) for each in descriptors]
    for each in listeners:
        each.setblocking(False)
    return listeners


def main() -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    descriptor, path, config = sys.argv[1:]
    server = socket.socket(fileno=int(descriptor))
    asyncio.run(run(server, Path(path), load_config(Path(config))))
