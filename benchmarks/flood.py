"""Many requests over a few connections that are kept open, by a client that costs little itself."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack

_ACCEPT = "application/vnd.oci.image.manifest.v1+json"


def requests_per_second(port: int, path: str, count: int, connections: int) -> float:
    """Ask for the same thing `count` times over `connections` to our loopback. All answers are as long."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {_ACCEPT}\r\n\r\n".encode()
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(connections)
        ]
        size = max(_answer(each, request) for each in sockets)
        begun = time.perf_counter()
        _ask({each.fileno(): each for each in sockets}, request, size, count)
        return count / (time.perf_counter() - begun)


def _answer(connection: socket.socket, request: bytes) -> int:
    """Ask once; give the size of the whole answer."""
    connection.sendall(request)
    answer = connection.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    lengths = [
        line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    ]
    while len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return len(head) + 4 + int(lengths[0])


def _ask(sockets: dict[int, socket.socket], request: bytes, size: int, count: int) -> None:
    waiting = dict.fromkeys(sockets, size)
    poll = select.epoll()
    try:
        for number, connection in sockets.items():
            poll.register(number, select.EPOLLIN)
            connection.sendall(request)
        sent, done = len(sockets), 0
        while done < count:
            for number, _ in poll.poll():
                waiting[number] -= len(sockets[number].recv(65536))
                if waiting[number] > 0:
                    continue
                done += 1
                if sent < count:
                    sockets[number].sendall(request)
                    sent += 1
                    waiting[number] = size
    finally:
        poll.close()
