"""The proxy's process: a helper (see `host.helper_process`) with the arguments SOCKET and CONFIG.

At SOCKET it receives the sockets on which it listens. They were made inside the bottle's network namespace
(see `proxy_process`): on the first it is an HTTP proxy, on others the service of their port. For a microVM of
smolvm they are those of `interception`.
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

from bot_bottle.cache.packages import PackageStore
from bot_bottle.network.asking import Questions
from bot_bottle.network.audit_log import Log
from bot_bottle.network.host_ports import HOST
from bot_bottle.network.name_server import NameServer
from bot_bottle.network.proxy.config import ProxyConfig, load_config
from bot_bottle.network.proxy.credentials import Credentials, ValueChannel
from bot_bottle.network.proxy.engine import Engine, Reading
from bot_bottle.network.proxy.intercepted import Interceptor
from bot_bottle.network.proxy.metering import Meter
from bot_bottle.network.proxy.outside import Outside
from bot_bottle.network.proxy.package_cache import PackageCache
from bot_bottle.network.proxy.resolver import Resolver
from bot_bottle.network.proxy.server import serve_proxy
from bot_bottle.network.proxy.tunnel import serve_tunnel
from bot_bottle.network.proxy.upstream import Exceptions, parse_upstream

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


async def run(path: Path, config: ProxyConfig) -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    engine = make_engine(config)
    if engine.reading is not None:
        await engine.reading.reader(engine)  # writes what the bottle needs before it starts
    async with Listeners() as listeners:
        sockets = await loop.run_in_executor(None, receive_sockets, path)
        if config.token is not None:
            await _intercept(listeners, Interceptor(engine, Path(config.token).read_text("ascii")), sockets)
        else:
            first, *others = sockets
            await listeners.add(first, lambda reader, writer: serve_proxy(engine, reader, writer))
            for each in others:
                await listeners.add(each, _service(engine, each.getsockname()[1]))
        await ended.wait()
        engine.meter.save()


async def _intercept(
    listeners: Listeners, interceptor: Interceptor, sockets: Sequence[socket.socket]
) -> None:
    """Serve what smolvm hands over on the first socket; on others, if there are any, questions for names."""
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
        engine.packages = PackageCache(engine, PackageStore(Path(config.packages)), config.authorities)
    return engine


def _outside(config: ProxyConfig) -> Outside:
    upstreams = {kind: parse_upstream(Path(pipe).read_text()) for kind, pipe in config.upstreams.items()}
    return Outside(
        Resolver(*config.resolver) if config.resolver else None,
        upstreams,
        Exceptions(config.no_proxy),
        config.authorities,
    )


def receive_sockets(path: Path) -> list[socket.socket]:
    """Wait for the sockets that were made inside the bottle's network namespace (unix(7), SCM_RIGHTS)."""
    with socket.socket(socket.AF_UNIX) as server:
        unready = path.with_name(f"{path.name}.new")
        server.bind(str(unready))
        # in a folder that only the user can enter; the process in the namespace may be another user's
        unready.chmod(0o666)
        server.listen(1)
        unready.rename(path)  # from now on it can be connected to
        connection, _ = server.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, _MOST_SOCKETS)
            listeners = [socket.socket(fileno=each) for each in descriptors]
            for each in listeners:
                each.setblocking(False)
            connection.sendall(b"\n")
    path.unlink()  # its removal says that the sockets have arrived
    return listeners


def main() -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    path, config = map(Path, sys.argv[1:])
    asyncio.run(run(path, load_config(config)))
