"""What passes through a tunnel arrives as it was sent, whoever waits for whom."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from pathlib import Path

from tests.support.bottle import wait_until
from tests.support.proxied import proxied, read_all, server

from bot_bottle.network.proxy.splicing import Pipe

SIZE = 1_000_000


def body(number: int) -> bytes:
    return b"\0" + random.Random(number).randbytes(SIZE)  # noqa: S311


def irregular(plug: socket.socket) -> bytes:
    """Read all, in parts of all sizes; what is sent meanwhile has to wait."""
    sizes, found = random.Random(1), b""  # noqa: S311
    while more := plug.recv(sizes.randrange(1, 1 << sizes.randrange(1, 18))):
        found += more
    return found


def exchange(plug: socket.socket, data: bytes) -> bytes:
    """Send and receive at once."""

    def send() -> None:
        plug.sendall(data)
        plug.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    found = irregular(plug)
    sender.join()
    return found


def test_bytes_of_many_tunnels_do_not_mix(tmp_path: Path) -> None:
    digests: set[bytes] = set()

    def answer(plug: socket.socket) -> None:
        plug.settimeout(60)
        found = exchange(plug, body(99))
        digests.add(hashlib.sha256(found).digest())

    found: list[bytes] = []

    def ask(number: int) -> None:
        plug, head = proxy.tunnel(f"127.0.0.1:{port}")
        with plug:
            plug.settimeout(60)
            assert b" 200 " in head
            found.append(exchange(plug, body(number)))

    with server(answer) as port, proxied(tmp_path, [f"127.0.0.1:{port}"]) as proxy:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert {(each["up"], each["down"]) for each in proxy.log(8)} == {(SIZE + 1, SIZE + 1)}
        wait_until(lambda: len(digests) == 8, 20)
    assert found == [body(99)] * 8
    assert digests == {hashlib.sha256(body(number)).digest() for number in range(8)}


def test_a_full_socket_takes_a_part_and_the_pipe_is_empty_after() -> None:
    pipe = Pipe()
    source, sender = socket.socketpair()
    target, receiver = socket.socketpair()
    with source, sender, target, receiver:
        target.setblocking(False)
        sent = bytearray()
        rest = b""
        while not rest:
            sent += (part := body(0)[:10_000])
            sender.sendall(part)
            moved, rest = pipe.move(source.fileno(), target.fileno(), 1 << 16)
            assert moved + len(rest) == len(part)
        assert pipe.move(source.fileno(), target.fileno(), 1 << 16) == (0, b"")
        target.shutdown(socket.SHUT_WR)
        assert read_all(receiver) + rest == sent
        sender.close()
        assert pipe.move(source.fileno(), target.fileno(), 1 << 16) == (0, b"")
    pipe.close()


def test_nothing_is_lost_to_a_socket_that_has_ended() -> None:
    pipe = Pipe()
    source, sender = socket.socketpair()
    target, receiver = socket.socketpair()
    with source, sender, target:
        receiver.close()
        sender.sendall(b"hello")
        assert pipe.move(source.fileno(), target.fileno(), 1 << 16) == (0, b"hello")
        sender.sendall(b"again")
        assert pipe.move(source.fileno(), sender.fileno(), 1 << 16)[0] == 5
        assert source.recv(10) == b"again"
    pipe.close()
