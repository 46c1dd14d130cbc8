"""The process that starts those of a worker's bottles (attempt.py), and these, as the worker sees them."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bot_bottle.backend import BackendName
from bot_bottle.cluster.order import Order, Values
from bot_bottle.errors import ClusterError
from bot_bottle.host import process, process_tree
from bot_bottle.vm.accel import Accel

NUMBER = 4  # bytes of a pid, and of an exit status
_SOON = 5.0  # seconds in which the end of a process is reported
_PATIENCE = 120.0  # seconds in which the first pid has to come: a busy node is slow, and so is its engine


class BottleProcess:
    """A bottle's process. It prints into `output`, and reports into `channel`."""

    def __init__(self, starter: Starter, pid: int, output: int, channel: socket.socket) -> None:
        self._starter = starter
        self.pid = pid
        self.output = output
        self.channel = channel
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        self.wait(0)
        return self._code

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, `seconds` at most; return whether it has."""
        if self._code is None:
            self._code = self._starter.number(seconds)
        return self._code is not None

    def send(self, signum: int) -> None:
        """Send a signal to the process and all in its group."""
        process_tree.signal_group(self.pid, signum)

    def end(self) -> bool:
        """End it and all in its session; return whether the end was reported."""
        if self.code is None:
            process_tree.end_session(self.pid, self.wait)
        else:
            self.send(signal.SIGKILL)
        return self.wait(_SOON)


class Starter:
    """The process that starts others, for bottles of this kind; it ends with this one."""

    def __init__(self, backend: BackendName, accel: Accel) -> None:
        self._open = ExitStack()
        ours, theirs = socket.socketpair()
        self._socket = self._open.enter_context(ours)
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        argv = [sys.executable, "-m", "bot_bottle.cluster.attempt", backend, accel]
        self._process = self._open.enter_context(process.background(argv, env=env, channel=theirs))

    @property
    def is_ready(self) -> bool:
        """Whether it can start a process."""
        return self._process.code is None

    def close(self) -> None:
        """End it."""
        self._open.close()

    @contextlib.contextmanager
    def started(self, order: Order, values: Values, state: Path) -> Iterator[BottleProcess]:
        """Start a bottle's process with a state folder of its own. Raises ClusterError.

        It ends in order when its channel is closed, and it has ended when the block has.
        """
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        with ours:
            try:
                with theirs, os.fdopen(writing, "wb"), contextlib.suppress(ConnectionError):
                    socket.send_fds(self._socket, [b"\n"], [theirs.fileno(), writing])
                if (pid := self.number(_PATIENCE)) is None:
                    self.close()
                    raise ClusterError("this node cannot start the process of a bottle")
                process_tree.announce_start(pid)
                child = BottleProcess(self, pid, reading, ours)
                try:
                    data = pickle.dumps((order, values, str(state)))
                    ours.sendall(len(data).to_bytes(8, "big") + data)
                    yield child
                finally:
                    if not child.end():
                        self.close()  # what it says next would be taken for the next pid
            finally:
                os.close(reading)

    def number(self, seconds: float) -> int | None:
        """Return what comes from it within these seconds, and None without that."""
        data = b""
        if select.select([self._socket], [], [], seconds)[0]:
            with contextlib.suppress(ConnectionError):
                data = self._socket.recv(NUMBER)
        return int.from_bytes(data, signed=True) if data else None


_kept: list[Starter] = []


def starter(backend: BackendName, accel: Accel) -> Starter:
    """Return that of this worker, whose bottles are all of one fan, started if it does not run."""
    while _kept and not _kept[-1].is_ready:
        _kept.pop().close()
    if not _kept:
        _kept.append(Starter(backend, accel))
    return _kept[-1]
