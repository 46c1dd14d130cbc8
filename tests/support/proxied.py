"""A proxy of a bottle, as a real process, with sockets of this machine's loopback in place of a bottle's."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot_bottle.host.helper_process import environment, helper
from bot_bottle.host.unix_sockets import connect, listening_for_all
from bot_bottle.network.caches import PackageFiles
from bot_bottle.network.policy import load_policy, parse_policy, save_policy
from bot_bottle.network.proxy.config import ProxyConfig
from bot_bottle.structs import replace
from tests.support.bottle import wait_until

Handle = Callable[[socket.socket], None]


@dataclass
class Proxied:
    """A proxy at `port`, and its process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    _forgotten: int = 0

    def _connections(self) -> list[str]:
        """Return those that it has not closed: proc(5), states ESTABLISHED and CLOSE_WAIT."""
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [row[2] for row in rows if row[1].endswith(f":{self.port:04X}") and row[3] in ("01", "08")]

    def forget(self) -> None:
        """Forget what was logged, for the next test: once all connections have ended, and been logged."""
        wait_until(lambda: not self._connections(), 20)
        plug, _ = self.tunnel(f"forgotten-{self._forgotten}.invalid:1")
        with plug:
            read_all(plug)
        name = f"forgotten-{self._forgotten}.invalid"
        wait_until(lambda: name in [each.get("host") for each in self.log()], 10)
        self._forgotten += len(self.log())

    def allow(self, *entries: str) -> None:
        """Replace the rules of its policy."""
        path = self.folder / "policy"
        save_policy(replace(load_policy(path), rules=parse_policy(entries).rules), path)

    def connect(self, port: int | None = None) -> socket.socket:
        """Connect to the proxy, or to another of its sockets."""
        return socket.create_connection(("127.0.0.1", port or self.port), 10)

    def tunnel(self, target: str) -> tuple[socket.socket, bytes]:
        """Ask for a tunnel; return its connection and the head of the answer."""
        plug = self.connect()
        plug.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return plug, read_head(plug)

    def ask(self, request: bytes) -> bytes:
        """Send bytes to the proxy, and return all that it answers."""
        with self.connect() as plug:
            plug.sendall(request)
            return read_all(plug)

    def log(self, count: int = 0) -> list[dict[str, Any]]:
        """Return its log, once it has so many entries."""
        path = self.folder / "log"

        def lines() -> list[str]:
            return path.read_text().splitlines()[self._forgotten :] if path.exists() else []

        wait_until(lambda: len(lines()) >= count, 10)
        return [json.loads(line) for line in lines()]


def read_all(plug: socket.socket) -> bytes:
    """Read until the other side ends, or resets."""
    data = b""
    with suppress(ConnectionResetError):
        while more := plug.recv(1 << 16):
            data += more
    return data


def read_head(plug: socket.socket) -> bytes:
    """Read up to an empty line, and nothing after it."""
    data = b""
    while not data.endswith(b"\r\n\r\n") and (more := plug.recv(1)):
        data += more
    return data


@contextmanager
def proxied(
    folder: Path,
    allow: Sequence[str] = (),
    ports: int = 0,
    others: Sequence[socket.socket] = (),
    channel: socket.socket | None = None,
    caches: Sequence[PackageFiles] = (),
    **config: Any,
) -> Iterator[Proxied]:
    """Run a proxy until the block ends; with more sockets, for services, and with `others`.

    `channel` is its standard input.
    """
    save_policy(replace(parse_policy(allow), caches=tuple(caches)), folder / "policy")
    given = ProxyConfig(str(folder / "policy"), str(folder / "log"), **config)
    given.save(folder / "proxy.json")
    place = folder / "socket"
    source = None if channel is None else channel.fileno()
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(ports + 1)]
    with (
        (folder / "words").open("wb") as words,
        listening_for_all(folder, place.name) as server,
        subprocess.Popen(
            helper("bot_bottle.network.proxy.main", server.fileno(), place, folder / "proxy.json"),
            env=environment(),
            stdin=source,
            stderr=words,
            pass_fds=[server.fileno()],
        ) as process,
    ):
        try:
            with connect(folder, place.name) as plug:
                socket.send_fds(plug, [b"l"], [each.fileno() for each in (*listeners, *others)])
            wait_until(lambda: not place.exists() or process.poll() is not None, 20)
            port = listeners[0].getsockname()[1]
            for each in listeners:
                each.close()
            yield Proxied(folder, port, process)
            process.terminate()
            assert process.wait(20) == 0, (folder / "words").read_text()
        finally:
            process.kill()
            for each in listeners:
                each.close()
    assert (folder / "words").read_text() == ""


@contextmanager
def server(handle: Handle, address: str = "127.0.0.1") -> Iterator[int]:
    """Yield the port of a server that handles each connection in a thread of its own."""

    def serve(plug: socket.socket) -> None:
        with plug, suppress(OSError):
            plug.settimeout(20)
            handle(plug)

    def accept() -> None:
        with suppress(OSError):
            while True:
                plug, _ = listener.accept()
                threading.Thread(target=serve, args=(plug,), daemon=True).start()

    with socket.create_server((address, 0), backlog=1024) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def echo(plug: socket.socket) -> None:
    """Send back what arrives, until its end."""
    while data := plug.recv(1 << 16):
        plug.sendall(data)
