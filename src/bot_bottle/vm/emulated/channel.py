"""The channel to an emulated host: commands go in, their three streams and exit statuses come out.

It consists of virtio-serial ports, which QEMU shows as sockets in our private folder: one for control, three
for each session, and a console for a session with a terminal. Nothing listens on a network.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import os
import select
import shlex
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bot_bottle.errors import BootError
from bot_bottle.host import process
from bot_bottle.host.wait import wait_until
from bot_bottle.vm.host import StderrFilter
from bot_bottle.vm.smolvm import HARDENING

SESSIONS = ("a", "b")  # one for the bottle's own command, one for bottle's other commands
PORTS = ("control", *(f"{stream}{session}" for session in SESSIONS for stream in ("in", "out", "err")))
CONSOLE = "console"

_CHUNK = 1 << 16
_PAUSE = 0.5  # seconds
_LINE = 5.0  # seconds, for the rest of a line that has begun

_ENVIRONMENT = {
    **HARDENING,
    "SMOLVM_LIB_DIR": "/opt/smolvm",
    "SMOLVM_AGENT_ROOTFS": "/opt/smolvm/agent-rootfs",
    "SMOLVM_AGENT_READY_TIMEOUT_SECS": "180",
}

# busybox, as Debian has it, brings no pkill
END = """\
for process in /proc/[0-9]*; do
  tr '\\0' ' ' < "$process/cmdline" | grep -q '^smolvm machine exec.* -i ' && kill -KILL "${process#/proc/}"
done
:
"""

Sink = Callable[[bytes], None]


class Control:
    """The control port: sends commands and receives their exit statuses.

    `ended` returns the error of a host that ended while a command ran in it.
    """

    def __init__(self, folder: Path, ended: Callable[[], BootError]) -> None:
        self._ended_error = ended
        self._socket = connect(folder, "control")
        self._lines = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        self._ended: dict[int, int] = {}
        self._news = threading.Condition()
        self._lost = False

    def wait_ready(self, timeout: float, failed: Callable[[], bool]) -> bool:
        """Wait until the host says that it takes commands; return False when `failed` says that it cannot."""

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
                if word == b"done" and number.isdigit() and status.isdigit():
                    with self._news:
                        self._ended[int(number)] = int(status)
                        self._news.notify_all()
        except OSError:
            pass
        with self._news:
            self._lost = True
            self._news.notify_all()

    def send(self, kind: str, script: str) -> int:
        """Start a script in a session and return its number."""
        number = next(self._ids)
        text = base64.b64encode(script.encode("utf-8", "surrogateescape")).decode()
        try:
            self._socket.sendall(f"{number} {kind} {text}\n".encode())
        except OSError as error:
            raise BootError("the emulated host has ended", why=str(error)) from error
        return number

    def wait(self, number: int, timeout: float | None) -> int | None:
        """Wait for a script's exit status, `timeout` seconds at most. Raises BootError if the host died."""
        with self._news:
            self._news.wait_for(lambda: number in self._ended or self._lost, timeout)
            if number in self._ended:
                return self._ended[number]
            if self._lost:
                raise self._ended_error()
            return None

    def close(self) -> None:
        """Close the connection, at which the host ends."""
        self._lines.close()
        self._socket.close()


def connect(folder: Path, name: str) -> socket.socket:
    """Connect to a port's socket. Its path is reached through /proc, because socket paths are short (108)."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        plug.connect(f"/proc/self/fd/{handle}/{name}")
    except OSError:
        plug.close()
        raise
    finally:
        os.close(handle)
    return plug


class StreamRelay:
    """Copies one session's streams between its ports and the caller's, on threads of its own."""

    def __init__(self) -> None:
        self._stop_read, self._stop_write = os.pipe()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._closed = False
        self.broken = False  # whether the caller's side of a stream has gone

    def feed(self, plug: socket.socket, source: int) -> None:
        """Send what comes from the file descriptor `source`, and its end, to a port."""
        self._start(plug, threading.Thread(target=self._feed, args=(plug, source), daemon=True))

    def drain(self, plug: socket.socket, sink: Sink) -> None:
        """Write what comes from a port to `sink`."""
        self._start(plug, threading.Thread(target=self._drain, args=(plug, sink), daemon=True))

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

    def _feed(self, plug: socket.socket, source: int) -> None:
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

    def _drain(self, plug: socket.socket, sink: Sink) -> None:
        handles: list[socket.socket | int] = [plug, self._stop_read]
        try:
            while True:
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
                    sink(data)
                except OSError:
                    self.broken = True
                    return
        except (OSError, ValueError):
            return


class Session:
    """One attached smolvm command in the emulated host, its three streams on ours."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._number = 0
        self._code: int | None = None
        self.relay = StreamRelay()
        self.stderr_filter = StderrFilter(2)

    def start(self, kind: str, script: str) -> None:
        """Start the script in a session of this kind (see agent.sh)."""
        self._number = self._control.send(kind, script)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait `timeout` seconds at most for its end and its output; return its exit status, or None."""
        if self.relay.broken:
            raise BrokenPipeError
        if self._code is None:
            code = self._control.wait(self._number, timeout)
            if code is None or not self.relay.finish(timeout):
                return None
            self._code = code
            self.stderr_filter.close(code)
        return self._code

    def end(self) -> None:
        """End the command now."""
        self._control.send("quiet", END)

    @property
    def failure(self) -> str:
        """What smolvm itself reported as the reason of a failure."""
        return self.stderr_filter.failure

    @property
    def last_line(self) -> str:
        """The last line of its standard error."""
        return self.stderr_filter.last_line


def write_to(descriptor: int) -> Sink:
    """Return a sink that writes all of its data to one of our own streams."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def smolvm_script(args: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the shell script that runs smolvm."""
    process.log.info("+ in the emulated host: smolvm %s", process.shown(args))
    exports = "".join(
        f"export {key}={shlex.quote(value)}\n" for key, value in {**_ENVIRONMENT, **env}.items()
    )
    return f"{exports}exec smolvm {shlex.join(args)}"


def _unread(plug: socket.socket) -> int:
    """Return how much of what was sent the other side has not read (unix(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(plug, termios.TIOCOUTQ, bytes(4)))[0])
