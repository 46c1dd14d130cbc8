"""A command at a guest's terminal: whose output it is, and when it gets its input."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bot_bottle.host.unix_sockets import bind
from bot_bottle.vm.direct.machine import Attached, Kind
from bot_bottle.vm.direct.qemu import terminal_name


class Session:
    """A session whose command has ended as soon as its output has."""

    number = 1
    mark = ""

    def start(self, kind: Kind, data: bytes, mark: str) -> None:
        assert (kind, data) == ("tty", b"a document")
        self.mark = mark

    def wait(self, timeout: float | None) -> int | None:
        del timeout
        return 3

    def signal(self, signum: int) -> None:
        del signum

    def resize(self, rows: int, columns: int) -> None:
        del rows, columns

    def cut(self) -> None:
        pass


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_input_waits_for_the_terminal_and_older_output_is_dropped(tmp_path: Path, size: int) -> None:
    session, out = Session(), bytearray()
    typed, typing = os.pipe()
    os.write(typing, b"typed early\r")
    with socket.socket(socket.AF_UNIX) as listener:
        bind(listener, tmp_path, terminal_name(1))
        listener.listen()
        attached = Attached(session, tmp_path, typed, out.extend, out.extend, terminal=True)
        guest = listener.accept()[0]
    attached.start("tty", b"a document")

    def write(data: str) -> None:
        for at in range(0, len(data), size):
            guest.sendall(data.encode()[at : at + size])

    write(f"echo of something older {session.mark[16:]} {session.mark[:16]} ")
    guest.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.recv(1)
    guest.settimeout(20)
    write(f"{session.mark[16:]}\nprompt# ")
    assert guest.recv(100) == b"typed early\r"
    write(f"output\n{session.mark}")
    assert attached.wait(20) == 3
    assert out == b"prompt# output\n"
    attached.close()
    guest.close()
    os.close(typed)
    os.close(typing)
