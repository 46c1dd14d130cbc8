"""The forward proxy of one container: its only way out, run outside of it, for it alone.

A helper process (see `host.helper_process`), built on mitmproxy; its arguments are SOCKET LOG POLICY
[CREDENTIALS]. It listens on a socket that was made for it inside the container's network namespace (see
`proxy_process`). It checks every request against the policy: the requested name, the addresses to which it
resolves here, of which the allowed ones are tried, and, inside a tunnel, the server name in the ClientHello.
Encrypted data passes unread, except for hosts of a credential (see `credentials`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import certifi
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.master import Master
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import modes, tls
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler, ServerInstance
from mitmproxy.proxy.mode_specs import ProxyMode, RegularMode
from mitmproxy.proxy.server import ConnectionIO

from bot_bottle.network.audit_log import Log
from bot_bottle.network.credentials import substitute_placeholders
from bot_bottle.network.dialing import connect, resolve
from bot_bottle.network.policy import Verdict, load_policy
from bot_bottle.network.rules import address_of

_LARGEST_HELLO = 64 << 10  # bytes; a ClientHello has some hundred to two thousand
_HTTPS = 443


class PolicyAddon:
    """The mitmproxy addon that applies the policy."""

    def __init__(self, policy: Path, log: Log, credentials: Mapping[str, Mapping[bytes, bytes]]) -> None:
        self._path = policy
        self._policy, self._read = load_policy(policy), _stamp(policy)
        self._log = log
        self._credentials = credentials  # by host: placeholders and values
        self._tunnels: dict[str, str] = {}  # by client: the host that a tunnel was asked for
        self._pinned: dict[str, tuple[str, int]] = {}  # by client: what that host resolved to

    def next_layer(self, data: layer.NextLayer) -> None:
        """Use HTTP with the client; check the start of what comes in a tunnel, and pass it on."""
        context = data.context
        if len(context.layers) == 1 and isinstance(context.layers[0], modes.HttpProxy):
            data.layer = layers.HttpLayer(context, HTTPMode.regular)
            return
        asked = self._tunnels.get(context.client.id, "")
        if context.client.tls_established:  # by us, for a host of a credential
            data.layer = layers.HttpLayer(context, HTTPMode.transparent)
            return
        said = data.data_client()
        if starts_like_tls_record(said) and not data.data_server():
            name = _server_name(said)
            if name is None:
                return  # the ClientHello is not complete
            data.layer = self._secured(context, asked, name)
        else:
            data.layer = layers.TCPLayer(context, ignore=True)

    def _secured(self, context: Context, asked: str, name: str) -> layer.Layer:
        """Return the layer for TLS to a server name, in a tunnel to the host that was requested."""
        port = context.server.address[1] if context.server.address else 0
        if asked in self._credentials and port == _HTTPS:
            if name.lower() != asked:
                self._log.refused(name, port, f"the tunnel was requested for {asked}")
                return _Closed(context)
            outside = layers.ServerTLSLayer(context)
            outside.child_layer = layers.ClientTLSLayer(context)
            return outside
        if name and not _is_address(asked) and not self._holds(name, port).allowed:
            return _Closed(context)
        return layers.TCPLayer(context, ignore=True)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Decide about a tunnel (CONNECT, RFC 9110, 9.3.6)."""
        self._decide(flow)
        self._tunnels[flow.client_conn.id] = flow.request.host.lower().removesuffix(".")

    def client_disconnected(self, client: Client) -> None:
        """Forget a client."""
        self._tunnels.pop(client.id, None)
        self._pinned.pop(client.id, None)

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Decide about a plain request. Its body is streamed."""
        flow.request.stream = True
        if flow.client_conn.tls_established:
            self._add_credentials(flow)
        elif flow.request.scheme != "http":
            flow.response = _refusal(400, "this is an HTTP proxy; HTTPS needs a tunnel (CONNECT)")
        elif _host_of(flow.request.host_header) not in ("", flow.request.host.lower()):
            flow.response = _refusal(400, "the header Host names another host than the request")
        else:
            self._decide(flow)

    def _add_credentials(self, flow: http.HTTPFlow) -> None:
        """Put credentials into a request in place of their placeholders."""
        host = self._tunnels.get(flow.client_conn.id, "")
        if _host_of(flow.request.host_header).removesuffix(".") not in ("", host):
            flow.response = _refusal(400, "the header Host names another host than the tunnel")
            return
        values = self._credentials.get(host, {})
        fields = flow.request.headers.fields
        flow.request.headers.fields = tuple(
            (name, substitute_placeholders(value, values)) for name, value in fields
        )

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Stream the body of a response."""
        if flow.response is not None:
            flow.response.stream = True

    async def addresses(self, client: str, host: str, port: int) -> list[str]:
        """Return the addresses of a host that are allowed. Raises OSError when there is none."""
        if self._pinned.get(client) == (host, port):
            return [host]  # already resolved, for its tunnel
        if not self._policy.decide(host, port).allowed:
            raise OSError("it is not allowed")
        try:
            found = await resolve(host, port)
        except OSError as error:
            raise OSError(f"it does not resolve: {error}") from error
        verdicts = [(address, self._policy.decide_resolved(address, port)) for address in found]
        allowed = [address for address, verdict in verdicts if verdict.allowed]
        if not allowed:
            reason = verdicts[0][1].reason if verdicts else "it has no address"
            self._log.refused(host, port, reason)
            raise OSError(reason)
        return allowed

    def pin(self, client: str, address: str, port: int) -> None:
        """Record the address of a client's tunnel, for another connection to it."""
        self._pinned[client] = (address, port)

    def _decide(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        asked = None if request.method == "CONNECT" else (request.method, request.path)
        verdict = self._holds(request.host, request.port, asked)
        if not verdict.allowed:
            target = f"{flow.request.host}:{flow.request.port}"
            flow.response = _refusal(403, f"{target}: {verdict.reason}; see bottle logs --egress")

    def _holds(self, host: str, port: int, request: tuple[str, str] | None = None) -> Verdict:
        """Decide about a connection that is not read, or about a request: its method and path."""
        verdict = self._decided(host, port, request)
        if not verdict.allowed and self._changed():
            verdict = self._decided(host, port, request)
        if not verdict.allowed:
            self._log.refused(host, port, verdict.reason)
        return verdict

    def _decided(self, host: str, port: int, request: tuple[str, str] | None) -> Verdict:
        if request is not None:
            return self._policy.decide_request(host, port, *request)
        if self._policy.reads(host, port):
            return Verdict(allowed=False, reason="only some requests are allowed, and TLS is not read")
        return self._policy.decide(host, port)

    def _changed(self) -> bool:
        """Read the policy again if `bottle allow` has added to it. Rules are only ever added."""
        stamp = _stamp(self._path)
        if stamp == self._read:
            return False
        self._policy, self._read = load_policy(self._path), stamp
        return True


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


class _Closed(layer.Layer):
    """A refused tunnel: both its ends are closed."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)
            yield commands.CloseConnection(self.context.server)


def _is_address(host: str) -> bool:
    try:
        return address_of(host) is not None
    except ValueError:
        return False


def _server_name(said: bytes) -> str | None:
    """Return the server name in a ClientHello, "" if it has none, None while it is not complete."""
    try:
        hello = tls.parse_client_hello(said)
    except ValueError:
        return ""
    if hello is None:
        return None if len(said) <= _LARGEST_HELLO else "\0"
    return hello.sni or ""


def _refusal(status: int, text: str) -> http.Response:
    return http.Response.make(
        status, f"bottle: {text}\n", {"Content-Type": "text/plain", "Connection": "close"}
    )


def _host_of(header: str | None) -> str:
    host = (header or "").lower()
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host


class _Connection(ProxyConnectionHandler):
    """A client's connection, and those to servers for it: each to an address that was decided on."""

    def __init__(
        self,
        addon: PolicyAddon,
        master: Master,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mode: ProxyMode,
    ) -> None:
        super().__init__(master, reader, writer, master.options, mode)
        self._addon = addon

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Connect to a server, tell the layers, and serve it; mitmproxy's own tries one address alone."""
        server = command.connection
        try:
            host, port = (server.address or ("", 0))[:2]
            allowed = await self._addon.addresses(self.client.id, host, port)
            reader, writer = await connect(allowed, port)
        except (OSError, asyncio.CancelledError) as error:
            server.error = str(error) or "cancelled"
            await self.server_event(events.OpenConnectionCompleted(command, server.error))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        server.peername = writer.get_extra_info("peername")
        server.sockname = writer.get_extra_info("sockname")
        server.address = (server.peername[0], port)
        self._addon.pin(self.client.id, *server.address)
        server.timestamp_start = server.timestamp_tcp_setup = time.time()
        server.state = ConnectionState.OPEN
        self.transports[server] = ConnectionIO(handler=asyncio.current_task(), reader=reader, writer=writer)
        await self.server_event(events.OpenConnectionCompleted(command, None))
        await self.handle_connection(server)
        server.timestamp_end = time.time()


async def _serve(path: Path, addon: PolicyAddon, config: dict[str, Any]) -> None:
    options = Options(server=False, http2=False)
    master, manager = Master(options), Proxyserver()
    master.addons.add(addon, manager)
    if config:
        trusted = config["trusted"] or certifi.where()
        master.addons.add(TlsConfig())  # makes its authority when it gets the options
        options.update(confdir=config["folder"], ssl_verify_upstream_trusted_ca=trusted)
        own = Path(config["folder"], "mitmproxy-ca-cert.pem").read_bytes()
        Path(config["bundle"]).write_bytes(Path(trusted).read_bytes() + b"\n" + own)
        Path(config["bundle"]).chmod(0o644)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, master.shutdown)
    listener = await loop.run_in_executor(None, _receive, path)
    instance: ServerInstance[RegularMode] = ServerInstance.make("regular", manager)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(addon, master, reader, writer, instance.mode)
        connection.layer = instance.make_top_layer(connection.layer.context)
        with manager.register_connection(connection.client.id, connection):
            await connection.handle_client()

    async with await asyncio.start_server(serve, sock=listener):
        await master.run()


def _receive(path: Path) -> socket.socket:
    """Wait for the socket that was made inside the container's network namespace (unix(7), SCM_RIGHTS)."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        # in a folder that only the user can enter; the process in the namespace may be another user's
        path.chmod(0o666)
        server.listen(1)
        connection, _ = server.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            listener = socket.socket(fileno=descriptors[0])
            listener.setblocking(False)
            connection.sendall(b"\n")
    path.unlink()  # its removal says that the socket has arrived
    return listener


def main() -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)
    path, log, policy, *more = map(Path, sys.argv[1:])
    config = json.loads(more[0].read_text()) if more else {}
    values: dict[str, dict[bytes, bytes]] = {}
    for each in config.get("secrets", ()):
        value = Path(each["pipe"]).read_bytes()
        for host in each["hosts"]:
            values.setdefault(host, {})[each["placeholder"].encode()] = value
    asyncio.run(_serve(path, PolicyAddon(policy, Log(log), values), config))
