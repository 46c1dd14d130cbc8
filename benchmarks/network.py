"""A container's network by its proxy, beside the same without it; many connections at once; memory."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.bottle import PROGRAM
from tests.support.escapes import client_context
from tests.support.proxied import Handle, echo, proxied, server

from benchmarks.measure import Claim

SIZE = 200_000_000  # bytes, each way
CONNECTIONS = 1000
LATER = 5.0  # milliseconds
MEMORY = 150.0  # MB

_PART = bytes(1 << 16)


def measure(count: int, _largest: int) -> list[Claim]:
    """Measure all that is claimed of the proxy."""
    with tempfile.TemporaryDirectory(prefix="bot-bottle-bench-") as name:
        folder = Path(name)
        os.environ["BOT_BOTTLE_STATE_DIR"] = str(folder / "state")
        os.environ["BOT_BOTTLE_CACHE_DIR"] = str(folder / "cache")
        return [*_container(count, folder), *_many(count, folder)]


def _container(count: int, folder: Path) -> list[Claim]:
    (folder / "client").mkdir()
    (folder / "none").touch()
    context = client_context(folder / "client", folder / "none")
    built = subprocess.run(["docker", "build", "-q", context], check=True, capture_output=True, text=True)
    image = built.stdout.strip()
    gateway = _bridge()
    with server(_serve, gateway) as port:
        url = f"http://{gateway}:{port}"
        allow = (f"--allow={gateway}:{port}",)
        ours = _rounds(image, f"curl -p -x http://127.0.0.1:3128 {url}", count, *allow)
        plain = _rounds(image, f"curl -x http://127.0.0.1:3128 {url}", count, *allow)
        theirs = _rounds(image, f"curl {url}", count, "--network=open")
    later = tuple((a - min(theirs["first"])) * 1000 for a in ours["first"])
    return [
        Claim("200 MB down by a tunnel", "MB/s", ours["down"], theirs["down"], "open network", at_least=0.5),
        Claim("200 MB up by a tunnel", "MB/s", ours["up"], theirs["up"], "open network", at_least=0.5),
        Claim("200 MB down by plain HTTP", "MB/s", plain["down"], theirs["down"], "open network"),
        Claim("200 MB up by plain HTTP", "MB/s", plain["up"], theirs["up"], "open network"),
        Claim("first byte later", "ms", later, (LATER,), "the bound", at_most=1),
    ]


def _bridge() -> str:
    """Return this machine's address on docker's bridge."""
    argv = ["docker", "network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", "bridge"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def _rounds(image: str, curl: str, count: int, *options: str) -> dict[str, tuple[float, ...]]:
    """Download, upload and wait for a first byte, each `count` times in one container."""
    ask = f"{curl} -sS -o /dev/null -w '%{{"
    script = (
        f"for i in $(seq {count}); do {ask}speed_download}} '; "
        f"head -c {SIZE} /dev/zero | {ask}speed_upload}} ' -T - ; {ask}time_starttransfer}}\\n' -r 0-0; done"
    )
    argv = [
        str(PROGRAM),
        "run",
        "-q",
        "--backend=docker",
        *options,
        f"--image={image}",
        "--",
        "sh",
        "-c",
        script,
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    lines = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    return {
        "down": tuple(line[0] / 1e6 for line in lines),
        "up": tuple(line[1] / 1e6 for line in lines),
        "first": tuple(line[2] for line in lines),
    }


def _serve(plug: socket.socket) -> None:
    """Answer requests: a GET with SIZE bytes, or with one if a range is asked for; a PUT is read."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (more := plug.recv(65536)):
            return
        head += more
    if head.startswith(b"PUT"):
        plug.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        tail, buffer = head[-64:], bytearray(1 << 18)
        while not tail.endswith(b"0\r\n\r\n") and (size := plug.recv_into(buffer)):
            tail = tail[-64:] + bytes(buffer[max(0, size - 64) : size])
        plug.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    length = 1 if b"Range:" in head else SIZE
    plug.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode())
    part = bytes(min(length, 1 << 18))
    for start in range(0, length, len(part)):
        plug.sendall(part[: length - start])


def _many(count: int, folder: Path) -> list[Claim]:
    """Open many tunnels at once, that are used, and that are not read: what they make the proxy hold."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    used, stalled, answered = [], [], []
    for number in range(count):
        with _tunnels(folder / f"used-{number}", echo) as (process, plugs):
            for plug in plugs:
                plug.sendall(b"\0hello")
            answered.append(float(sum(plug.recv(100) == b"\0hello" for plug in plugs)))
            used.append(_memory(process))
        with _tunnels(folder / f"stalled-{number}", _flood) as (process, plugs):
            for plug in plugs:
                plug.sendall(b"\0go")
                assert plug.recv(1)
            for plug in plugs:  # so that each has been sent as much as fits
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            stalled.append(_memory(process))
    bound = (MEMORY,)
    return [
        Claim("of 1,000 connections answer", "", tuple(answered), (float(CONNECTIONS),), "asked", at_least=1),
        Claim("memory, 1,000 connections", "MB", tuple(used), bound, "the bound", at_most=1),
        Claim("memory, 1,000 that stall", "MB", tuple(stalled), bound, "the bound", at_most=1),
    ]


@contextmanager
def _tunnels(folder: Path, handle: Handle) -> Iterator[tuple[int, list[socket.socket]]]:
    folder.mkdir()
    with ExitStack() as stack:
        port = stack.enter_context(server(handle))
        proxy = stack.enter_context(proxied(folder, [f"127.0.0.1:{port}"]))
        plugs = []
        for _ in range(CONNECTIONS):
            plug, head = proxy.tunnel(f"127.0.0.1:{port}")
            assert b" 200 " in head
            plugs.append(stack.enter_context(plug))
        yield proxy.process.pid, plugs


def _flood(plug: socket.socket) -> None:
    """Send as much as the other side takes."""
    plug.recv(10)
    while True:
        plug.sendall(_PART)


def _memory(pid: int) -> float:
    """Return the most memory that a process has had, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024 / 1e6
