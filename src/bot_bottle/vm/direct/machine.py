"""A running guest: booted by QEMU, then sent commands in numbered sessions, until it is ended."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from bot_bottle.errors import BootError, BottleError, WallsError
from bot_bottle.host import process
from bot_bottle.host.process import Child, Completed
from bot_bottle.host.system_errors import ALLOW_NAMESPACES
from bot_bottle.host.unix_sockets import connect
from bot_bottle.host.wait import wait_until
from bot_bottle.vm.channel import ControlPort, Sink, StreamRelay, connect_control
from bot_bottle.vm.console import QEMU_LOG, kernel_panic, last_output
from bot_bottle.vm.direct.confinement import FAILED
from bot_bottle.vm.direct.container import encoded
from bot_bottle.vm.direct.qemu import DATA, SESSIONS, TERMINALS, port_names, terminal_name

Kind = Literal["run", "tty", "sh"]

_READY = 300.0  # seconds; two on an idle machine, and a busy one is waited for
_CONNECT = 60.0
_QUICK = 10.0
_HALF = 16  # characters of a mark
_QUIET = 1.0  # seconds without output after which an exited command's pipes are taken from those it left


class Session(Protocol):
    """One of a guest's sessions, in this process or through the one of its bottle."""

    @property
    def number(self) -> int:
        """Its number."""

    def start(self, kind: Kind, data: bytes, mark: str) -> None:
        """Start a command whose outputs end with the mark. Raises BootError."""

    def wait(self, timeout: float | None) -> int | None:
        """Return the command's exit status, after `timeout` seconds at most, or None while it runs."""

    def signal(self, signum: int) -> None:
        """Send a signal to the command and what it has started."""

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the command's terminal."""

    def cut(self) -> None:
        """End the output of a command that has exited and left other processes with its pipes."""


class Attached:
    """A command whose streams are delivered here. Closed by `close`."""

    def __init__(
        self,
        session: Session,
        folder: Path,
        stdin: int | None,
        out: Sink,
        err: Sink,
        *,
        terminal: bool = False,
    ) -> None:
        """Connect to the ports of a session, or to its terminal, whose output goes to `out`.

        `stdin` is a file descriptor, None for no input.
        """
        self._session = session
        self._mark = secrets.token_hex(_HALF)
        self._relay = StreamRelay()
        self._moved = time.monotonic()
        self._status: int | None = None
        names = (terminal_name(session.number),) if terminal else port_names(session.number)
        self._plugs = [connect(folder, name) for name in names]
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._stdin = self._null if stdin is None else stdin
        self._sinks = out, err

    def start(self, kind: Kind, data: bytes) -> None:
        """Start the command. Raises BootError."""
        given, outputs = self._plugs[0], self._plugs[1:] or self._plugs
        begun = None
        sinks: Sequence[Sink] = self._sinks
        if kind == "tty":
            begun = _Begun(self._sinks[0], f"{self._mark[_HALF:]}\n".encode())
            sinks = (begun,)
        for plug, sink in zip(outputs, sinks, strict=False):
            self._relay.drain(plug, partial(self._deliver, sink), self._mark.encode())
        self._session.start(kind, data, self._mark)
        if kind != "tty":
            given.sendall(b"\n")  # agent.sh waits for it
        self._relay.feed(given, self._stdin, begun.event if begun else None)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit status when the output is delivered too, after `timeout` seconds at most, or None.

        Raises BrokenPipeError when nobody reads the output any more, BootError when the guest has ended.
        """
        if self._relay.broken:
            raise BrokenPipeError
        if self._status is None:
            self._status = self._session.wait(timeout)
            self._moved = time.monotonic()
        if self._status is None or self._relay.finish(timeout):
            return self._status
        if time.monotonic() - self._moved > _QUIET:
            self._session.cut()
            self._moved = time.monotonic()
        return None

    def signal(self, signum: int) -> None:
        """Send a signal to the command and what it has started."""
        self._session.signal(signum)

    def kill(self) -> None:
        """End the command now."""
        self._session.signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the command's terminal."""
        self._session.resize(rows, columns)

    def close(self) -> None:
        """Close the streams, delivered or not."""
        self._relay.close()
        for plug in self._plugs:
            plug.close()
        os.close(self._null)

    def _deliver(self, sink: Sink, data: bytes) -> None:
        self._moved = time.monotonic()
        sink(data)


class _Begun:
    """Delivers a terminal's output from a mark on: what comes before is not of this command."""

    def __init__(self, sink: Sink, mark: bytes) -> None:
        self.event = threading.Event()
        self._sink = sink
        self._mark = mark
        self._seen = b""

    def __call__(self, data: bytes) -> None:
        if not self.event.is_set():
            before, found, data = (self._seen + data).partition(self._mark)
            if not found:
                self._seen = before[-len(self._mark) :]
                return
            self.event.set()
        if data:
            self._sink(data)


class Machine:
    """A running guest. Made by `boot`."""

    def __init__(self, folder: Path, control: ControlPort, child: Child) -> None:
        self.folder = folder
        self.child = child
        self._control = control
        self._data = connect(folder, DATA)
        self._sending = threading.Lock()
        self._free = set(range(1, SESSIONS + 1))
        self._claims = threading.Condition()

    def send(self, kind: Kind, session: int | Literal["-"], data: bytes, mark: str = "-") -> int:
        """Start a command and return its number. Raises BootError."""
        with self._sending:
            number = next(self._control.ids)
            # the guest reads so many bytes of data when it has read the line
            self._write(f"{kind} {number} {session} {len(data)} {mark}")
            try:
                self._data.sendall(data)
            except OSError as error:
                raise self._gone(error) from error
        return number

    def tell(self, words: str) -> None:
        """Send a command that is not answered. Raises BootError."""
        with self._sending:
            kind, _, rest = words.partition(" ")
            self._write(f"{kind} {next(self._control.ids)} {rest}")

    def wait(self, number: int, timeout: float | None, *, delivered: bool = True) -> int | None:
        """Return a command's exit status, after `timeout` seconds at most, or None while it runs."""
        return self._control.wait(number, timeout, delivered=delivered)

    def script(self, text: str, timeout: float) -> int | None:
        """Run a script in the guest, outside the container; return its status, None when it takes too long.

        Its messages go to the console.
        """
        return self.wait(self.send("sh", "-", text.encode("utf-8", "surrogateescape")), timeout)

    def console(self) -> str:
        """Return the end of what the guest has put on its console."""
        return last_output(self.folder, self.child, 0)

    @contextmanager
    def session(self, *, terminal: bool = False) -> Iterator[MachineSession]:
        """Claim a session for the block, for a `terminal` one that has one; wait if all are in use."""
        usable = range(1, (TERMINALS if terminal else SESSIONS) + 1)
        with self._claims:
            self._claims.wait_for(lambda: self._free & {*usable})
            number = (min if terminal else max)(self._free & {*usable})
            self._free.remove(number)
        session = MachineSession(self, number)
        try:
            yield session
        finally:
            session.release()

    def free(self, number: int) -> None:
        """Return a session to those that can be claimed."""
        with self._claims:
            self._free.add(number)
            self._claims.notify_all()

    def run(self, document: Mapping[str, Any], timeout: float) -> Completed:
        """Run a process in the container without input, and return its result. Raises BootError."""
        with self.session() as session:
            code, out, err = collect(session, self.folder, encoded(document), timeout)
        if code is None:
            raise BootError(f"a command in the microVM did not end within {timeout:g} s")
        return Completed(tuple(document["args"]), code, out, err)

    def close(self) -> None:
        """Close the connection."""
        self._data.close()

    def _write(self, line: str) -> None:
        try:
            self._control.write(line)
        except OSError as error:
            raise self._gone(error) from error

    def _gone(self, error: OSError) -> BootError:
        return ended_error(self.folder, self.child, str(error))


def collect(session: Session, folder: Path, data: bytes, timeout: float) -> tuple[int | None, bytes, bytes]:
    """Run a command without input; return its exit status and its two outputs.

    After `timeout` seconds it is killed, and its status None. Raises BootError.
    """
    out, err = bytearray(), bytearray()
    with closing(Attached(session, folder, None, out.extend, err.extend)) as attached:
        attached.start("run", data)
        code = wait_until(lambda: _some(attached.wait(0.5)), timeout, pause=0)
        if code is None:
            attached.kill()
    return None if code is None else code[0], bytes(out), bytes(err)


def _some(code: int | None) -> tuple[int] | None:
    return None if code is None else (code,)


class MachineSession:
    """A session of a guest of this process."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.number = number
        self._machine = machine
        self._command: int | None = None

    def start(self, kind: Kind, data: bytes, mark: str) -> None:
        """Start a command whose outputs end with the mark. Raises BootError."""
        self._command = self._machine.send(kind, self.number, data, mark)

    def wait(self, timeout: float | None) -> int | None:
        """Return the command's exit status, after `timeout` seconds at most, or None while it runs."""
        assert self._command is not None  # noqa: S101 - started before
        return self._machine.wait(self._command, timeout, delivered=False)

    def signal(self, signum: int) -> None:
        """Send a signal to the command and what it has started."""
        self._machine.tell(f"signal {self.number} {signum}")

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the command's terminal."""
        self._machine.tell(f"size {self.number} {rows} {columns}")

    def cut(self) -> None:
        """End the output of a command that has exited and left other processes with its pipes."""
        self._machine.tell(f"cut {self.number}")

    def kill(self) -> None:
        """End the command if it runs."""
        if self._command is not None and self.wait(0) is None:
            self.signal(signal.SIGKILL)

    def wait_free(self, timeout: float | None) -> int | None:
        """Return the exit status when the output is delivered too, after `timeout` seconds at most."""
        assert self._command is not None  # noqa: S101 - started before
        return self._machine.wait(self._command, timeout)

    def release(self) -> None:
        """Kill the command if it runs, and free the session when it has ended."""
        if self._command is not None:
            try:
                self.kill()
                if self._machine.wait(self._command, 0) is None:
                    threading.Thread(target=self._free_later, daemon=True).start()
                    return
            except BootError:
                pass
        self._machine.free(self.number)

    def _free_later(self) -> None:
        command = self._command
        try:
            while command is not None and self._machine.wait(command, 5.0) is None:
                self.cut()
        except BootError:
            pass
        self._machine.free(self.number)


@contextmanager
def boot(argv: Sequence[str], folder: Path) -> Iterator[Machine]:
    """Boot a guest with a command line that `confined` made; end it when the block ends.

    `folder` is QEMU's current folder. Raises BootError when the guest does not come up, and
    WallsError when QEMU cannot be confined.
    """
    with ExitStack() as stack:
        log = stack.enter_context((folder / QEMU_LOG).open("wb"))
        child = stack.enter_context(process.background(argv, output=log))
        control = connect_control(
            lambda: ControlPort(folder, partial(ended_error, folder, child)),
            child,
            partial(_boot_error, folder, child),
            _CONNECT,
            0.005,
        )
        stack.callback(control.close)
        stack.callback(_kill, child)
        if not control.wait_ready(_READY, lambda: child.code is not None or bool(kernel_panic(folder))):
            raise _boot_error(folder, child)
        machine = Machine(folder, control, child)  # QEMU makes the other sockets after that of control
        stack.callback(machine.close)
        yield machine


def _kill(child: Child) -> None:
    child.send(signal.SIGKILL)
    child.wait(_QUICK)


def _boot_error(folder: Path, child: Child) -> BottleError:
    if child.wait(0) == FAILED:
        return WallsError(
            "QEMU cannot be isolated as this bottle needs it",
            why=last_output(folder, child),
            next_step=f"{ALLOW_NAMESPACES}; or run it without allowed hosts and published ports",
        )
    late = child.code is None and not kernel_panic(folder)
    output = last_output(folder, child)
    if reason := kernel_panic(folder):
        return BootError(
            f"the microVM's kernel panicked: {reason}",
            why=output,
            next_step="try again, with another --memory if it panics again",
        )
    if late:
        return BootError(
            f"the microVM did not come up within {_READY:g} s",
            why=output,
            next_step="try again while less runs on this machine",
        )
    return BootError(
        "the microVM did not come up", why=output, next_step="check free memory with `bottle doctor`"
    )


def ended_error(folder: Path, child: Child, why: str = "") -> BootError:
    """Return the error of a guest that ended while a command ran in it."""
    output = last_output(folder, child)
    if reason := kernel_panic(folder):
        return BootError(
            f"the microVM's kernel panicked: {reason}", why=output, next_step="try again with more --memory"
        )
    return BootError(
        "the microVM ended before its command did",
        why=output or why,
        next_step="if dmesg shows that it was killed for lack of memory, use a smaller --memory",
    )
