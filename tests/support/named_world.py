"""A world with a name server, for microVMs: an internet, a LAN and a metadata service, and nothing else.

`python -m tests.support.named_world LOG FOLDER COMMAND...` runs a command in it, as root, with its status.
Nothing leads out of it: all its addresses are on its loopback. What its servers see is written to LOG, a JSON
list a line: ["tcp", ADDRESS, PORT, FIRST BYTES], ["udp", ...], or ["name", NAME]. At ALLOWED are the servers
for HTTP and HTTPS of a `World`, out of a FOLDER that was furnished for them; others answer "ok" to anything.
"""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.world_servers import Servers

# of AS112 (RFC 7534, 7535): on the internet, and nobody's
ALLOWED, REFUSED, WILD, RESOLVER = "192.31.196.10", "192.31.196.20", "192.31.196.30", "192.31.196.53"
LAN, METADATA = "10.77.0.5", "169.254.169.254"
EMULATOR = "198.18.0.2"  # where QEMU shows an emulated host this machine's loopback

NAMES = {
    "api.example.org": [ALLOWED],
    "sub.api.example.org": [REFUSED],
    "other.example.org": [REFUSED],
    "shared.example.net": [ALLOWED],
    "evil.example.net": [REFUSED],
    "wild.example.org": [REFUSED],
    "a.wild.example.org": [WILD],
    "b.a.wild.example.org": [WILD],
    "lan.wild.example.org": [LAN],
    "both.wild.example.org": [LAN, WILD],
    "meta.wild.example.org": [METADATA],
    "loop.wild.example.org": ["127.0.0.1"],
    "emulator.wild.example.org": [EMULATOR],
}

_log: Any = None


def _saw(*what: object) -> None:
    _log.write(json.dumps(what) + "\n")
    _log.flush()


def answer(question: bytes) -> bytes:
    """Give a name server's answer to a question."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
        at += question[at] + 1
    name, kind = ".".join(labels).lower(), question[at + 1 : at + 3]
    _saw("name", name)
    found = NAMES.get(name, []) if kind == b"\0\1" else []
    records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(each) for each in found)
    status = b"\x81\x80" if name in NAMES else b"\x81\x83"
    return question[:2] + status + bytes([0, 1, 0, len(found), 0, 0, 0, 0]) + question[12 : at + 5] + records


class _Stream(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(20)
        address, port = self.request.getsockname()[:2]
        data = b""
        try:
            data = self.request.recv(4096)
            if port == 53:
                reply = answer(data[2:])
                self.request.sendall(len(reply).to_bytes(2, "big") + reply)
            else:
                self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
        except (OSError, IndexError):
            pass
        finally:
            if port != 53:
                _saw("tcp", address, port, data[:200].decode("latin-1"))


class _Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, here = self.request
        address, port = here.getsockname()
        if port == 53:
            reply = answer(data)
        else:
            _saw("udp", address, port, data[:200].decode("latin-1"))
            reply = b"answer\n"
        here.sendto(reply, self.client_address)


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _serve(addresses: Sequence[str]) -> None:
    for address in (*addresses, "127.0.0.1"):
        servers: list[socketserver.BaseServer] = [
            *(_Tcp((address, port), _Stream) for port in ((53,) if address == ALLOWED else (53, 80, 443))),
            *(socketserver.UDPServer((address, port), _Datagram) for port in (53, 443)),
        ]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()


class _Web(Servers):
    def saw(self, address: str, port: int, **facts: Any) -> None:
        _saw("tcp", address, port, json.dumps(facts))


def _serve_web(folder: Path) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_Web(folder).web(ALLOWED))
    threading.Thread(target=loop.run_forever, daemon=True).start()


def _main(log: str, folder: str, *command: str) -> int:
    global _log
    _log = Path(log).open("a", encoding="utf-8")  # noqa: SIM115 - until it ends
    addresses = (ALLOWED, REFUSED, WILD, RESOLVER, LAN, METADATA)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in addresses:
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    # so that pings from the emulator are answered (libslirp)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    with tempfile.NamedTemporaryFile("w") as resolv:
        resolv.write(f"nameserver {RESOLVER}\n")
        resolv.flush()
        Path(resolv.name).chmod(0o644)
        subprocess.run(["mount", "--bind", resolv.name, "/etc/resolv.conf"], check=True)
        _serve(addresses)
        _serve_web(Path(folder))
        return subprocess.run(command, check=False).returncode


def prefix(log: Path, folder: Path) -> tuple[str, ...]:
    """Give what is put before a command that is to run in it."""
    program = (sys.executable, "-m", "tests.support.named_world", str(log), str(folder))
    return ("unshare", "--net", "--mount", *program)


def seen(log: Path) -> list[list[Any]]:
    """Give what the servers saw."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
