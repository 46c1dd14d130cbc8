"""The end of a stream, marked by bytes that may come in pieces."""

from __future__ import annotations

import os
import socket

import pytest

from bot_bottle.vm.channel import StreamRelay

MARK = b"0123456789abcdef"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("data", [b"", b"text\n", b"0123", MARK[:-1] + b"x" + MARK[:5], os.urandom(5000)])
def test_what_comes_before_the_mark_is_delivered_and_nothing_after(data: bytes, size: int) -> None:
    ours, theirs = socket.socketpair()
    found = bytearray()
    relay = StreamRelay()
    relay.drain(ours, found.extend, MARK)
    sent = data + MARK
    for at in range(0, len(sent), size):
        theirs.sendall(sent[at : at + size])
    assert relay.finish(20)
    assert found == data
    theirs.close()
    relay.close()


def test_a_stream_without_its_mark_is_not_finished() -> None:
    ours, theirs = socket.socketpair()
    found = bytearray()
    relay = StreamRelay()
    relay.drain(ours, found.extend, MARK)
    theirs.sendall(b"text")
    assert not relay.finish(0)
    theirs.sendall(MARK)
    assert relay.finish(20)
    assert found == b"text"
    theirs.close()
    relay.close()
