"""The channel to a machine: commands go in, their streams and exit statuses come out.

It consists of virtio-serial ports, which QEMU shows as sockets in our private folder: one for control, and
three for each session. Nothing listens on a network.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bot_bottle.errors import BottleError
from bot_bottle.host.process import Child
from bot_bottle.host.unix_sockets import connect
from bot_bottle.host.wait import wait_until

CONTROL_PORT = "control"

_CHUNK = 1 << 16
_PAUSE = 0.5  # seconds
_LINE = 5.0  # seconds, for the rest of a line that has begun

Sink = Callable[[bytes], None]
Control = TypeVar("Control", bound="ControlPort")


class ControlPort:
    """The control port: sends commands and receives their exit statuses.

    `ended` returns the error of a machine that ended while a command ran in it.
    """

    def __init__(self, folder: Path, ended: Callable[[], BottleError]) -> None:
        self._ended_error = ended
        self._socket = connect(folder, CONTROL_PORT)
        self._lines = self._socket.makefile("rb")
        self.ids = itertools.count(1)  # of commands
        self._exited: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._news = threading.Condition()
        self._lost = False

    def wait_ready(self, timeout: float, failed: Callable[[], bool]) -> bool:
        """Wait until the machine takes commands; return False when `failed` says that it cannot."""

        def said_something() -> bool:
            return bool(select.select([self._socket], [], [], _PAUSE)[0])

        if not wait_until(lambda: said_something() or failed(), timeout, pause=0) or failed():
            return False
        self._socket.settimeout(_LINE)
        try:
            ready = self._lines.readline(100) == b"ready\n"
        except OSError:
            return False
        self._socket.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()
        return ready

    def _listen(self) -> None:
        try:
            while line := self._lines.readline(100):
                word, number, status = (line.split() + [b""] * 3)[:3]
                found = {b"done": self._done, b"ended": self._exited}.get(word)
                if found is not None and number.isdigit() and status.isdigit():
                    with self._news:
                        found[int(number)] = int(status)
                        self._news.notify_all()
        except OSError:
            pass
        with self._news:
            self._lost = True
            self._news.notify_all()

    def write(self, line: str) -> None:
        """Send a line. Raises OSError when the other side has gone."""
        self._socket.sendall(f"{line}\n".encode())

    def wait(self, number: int, timeout: float | None, *, delivered: bool = True) -> int | None:
        """Wait for a command's exit status, `timeout` seconds at most.

        By default also until its output is delivered. Raises what `ended` returns if the machine died.
        """
        found = self._done if delivered else self._exited
        with self._news:
            self._news.wait_for(lambda: number in found or self._lost, timeout)
            if number in found:
                return found[number]
            if self._lost:
                raise self._ended_error()
            return None

    def close(self) -> None:
        """Close the connection, at which the machine ends."""
        self._lines.close()
        self._socket.close()


def connect_control(
    make: Callable[[], Control], child: Child, failed: Callable[[], BottleError], timeout: float, pause: float
) -> Control:
    """Return the control port that `make` connects to, as soon as QEMU has made it.

    Raises what `failed` returns when QEMU ends before, or within `timeout` seconds has made none.
    """

    def connected() -> Control | None:
        over = child.code is not None  # asked first: what it has opened is tried again
        try:
            return make()
        except OSError:
            if over:
                raise failed() from None
            return None

    control = wait_until(connected, timeout, pause=pause)
    if control is None:
        raise failed()
    return control


class StreamRelay:
    """Copies one session's streams between its ports and the caller's, on threads of its own."""

    def __init__(self) -> None:
        self._stop_read, self._stop_write = os.pipe()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._closed = False
        self.broken = False  # whether the caller's side of a stream has gone

    def feed(self, plug: socket.socket, source: int, begun: threading.Event | None = None) -> None:
        """Send what comes from the file descriptor `source`, and its end, to a port, once it has `begun`."""
        self._start(plug, threading.Thread(target=self._feed, args=(plug, source, begun), daemon=True))

    def drain(self, plug: socket.socket, sink: Sink, mark: bytes = b"") -> None:
        """Write what comes from a port to `sink`. With a `mark`, the stream ends with these bytes."""
        until = _Mark(mark) if mark else None
        self._start(plug, threading.Thread(target=self._drain, args=(plug, sink, until), daemon=True))

    def finish(self, timeout: float | None = None) -> bool:
        """Deliver what the ended command has left in the sockets; return whether all of it is delivered.

        A caller who reads slowly is waited for, `timeout` seconds at most at a time.
        """
        self._ended.set()
        if not self._closed:
            self._closed = True
            os.close(self._stop_write)
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Close everything, delivered or not."""
        self.finish(0)
        for plug in self._sockets:
            with contextlib.suppress(OSError):
                plug.shutdown(socket.SHUT_RDWR)
            plug.close()
        if self.finish(1):
            os.close(self._stop_read)

    def _start(self, plug: socket.socket, thread: threading.Thread) -> None:
        self._sockets.append(plug)
        self._threads.append(thread)
        thread.start()

    def _feed(self, plug: socket.socket, source: int, begun: threading.Event | None) -> None:
        while begun is not None and not begun.wait(_PAUSE):
            if self._ended.is_set():
                return
        with contextlib.suppress(OSError, ValueError):  # the command has gone, and its port with it
            while True:
                ready, _, _ = select.select([source, self._stop_read], [], [])
                if self._stop_read in ready:
                    return
                data = os.read(source, _CHUNK)
                if not data:
                    break
                self._send(plug, data)
            # QEMU drops what it has not read when a socket closes: wait until it has
            while not self._ended.is_set() and _unread(plug):
                time.sleep(0.002)
        plug.close()

    def _send(self, plug: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._ended.is_set():
            _, writable, _ = select.select([], [plug], [], 0.2)
            if writable:
                view = view[plug.send(view, socket.MSG_DONTWAIT) :]

    def _drain(self, plug: socket.socket, sink: Sink, mark: _Mark | None) -> None:
        handles: list[socket.socket | int] = [plug] if mark else [plug, self._stop_read]
        try:
            while mark is None or not mark.seen:
                ready, _, _ = select.select(handles, [], [])
                if plug in ready:
                    data = plug.recv(_CHUNK)
                    if not data:
                        return
                elif self._stop_read in ready:
                    return  # the command has ended and nothing is left in the socket
                else:
                    continue
                try:
                    sink(mark.before(data) if mark else data)
                except OSError:
                    self.broken = True
                    return
        except (OSError, ValueError):
            return


class _Mark:
    """Looks for the bytes that end a stream, which may come in several pieces."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._rest = b""
        self.seen = False

    def before(self, data: bytes) -> bytes:
        """Return what is certain to come before the mark."""
        data = self._rest + data
        at = data.find(self._mark)
        self.seen = at >= 0
        if at < 0:
            lengths = range(min(len(self._mark) - 1, len(data)), 0, -1)
            begun = next((length for length in lengths if data.endswith(self._mark[:length])), 0)
            at = len(data) - begun
        self._rest = data[at:]
        return data[:at]


def write_to(descriptor: int) -> Sink:
    """Return a sink that writes all of its data to one of our own streams."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def _unread(plug: socket.socket) -> int:
    """Return how much of what was sent the other side has not read (unix(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(plug, termios.TIOCOUTQ, bytes(4)))[0])
