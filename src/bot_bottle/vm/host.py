"""Where smolvm runs: on this machine's KVM, or on an emulated host. One interface for both."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Literal, Protocol

from bot_bottle.errors import SmolvmError
from bot_bottle.host import process
from bot_bottle.host.process import Child, CommandFailed, Completed
from bot_bottle.host.redact import Secret
from bot_bottle.secrets.fifo import secret_fifos
from bot_bottle.vm.smolvm import AS_CALLER, Smolvm, start_argv


class Attached(Protocol):
    """A smolvm command on the caller's own streams."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has exited and all its output is delivered, `timeout` seconds at most.

        Returns its exit status, or None while it runs. Raises BrokenPipeError when our own streams are
        closed.
        """

    def end(self) -> None:
        """Kill it."""

    @property
    def failure(self) -> str:
        """smolvm's own error message, or "" when the exit status is the command's own."""

    @property
    def last_line(self) -> str:
        """The last line of its standard error ("" with a terminal)."""


class Host(Protocol):
    """A machine that smolvm runs on."""

    kind: Literal["kvm", "nested"]

    def call(
        self, args: Sequence[str], *, timeout: float, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run smolvm with these arguments and return the result. Raises SmolvmError with its message."""

    def attach(
        self, args: Sequence[str], *, tty: bool, env: Mapping[str, str]
    ) -> AbstractContextManager[Attached]:
        """Run smolvm with these arguments on our own streams, until the block ends."""

    def pass_secrets(self, values: Mapping[str, Secret]) -> AbstractContextManager[Mapping[str, str]]:
        """Yield a path for each value, from which smolvm can read it once, until the block ends."""

    def start(self, machine: str, *, timeout: float, env: Mapping[str, str], interceptor: str = "") -> None:
        """Start a machine, with these variables for smolvm besides its own. Raises SmolvmError.

        `interceptor` is the address with a port to which smolvm hands over the machine's connections.
        """

    def path_of(self, file: Path) -> str:
        """Return the path under which smolvm finds one of our files."""

    def port_of(self, port: int) -> int:
        """Return the port of its own loopback on which smolvm has to listen for one of ours."""

    def tools(self, folder: Path) -> str:
        """Return the path under which smolvm finds a folder with files of ours, for a machine to read."""

    def folder(self, path: Path) -> str:
        """Return the path under which smolvm finds the folder of ours that a machine shares."""


class NativeHost:
    """This machine, with a KVM that can boot a guest."""

    kind: Literal["kvm", "nested"] = "kvm"

    def __init__(self, smolvm: Smolvm, prefix: Sequence[str] = (), folder: Path | None = None) -> None:
        """Use `folder` for temporary files, if one is given."""
        self.smolvm = smolvm
        self._folder = folder
        self._prefix = prefix

    def call(
        self, args: Sequence[str], *, timeout: float, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Completed:
        """Run smolvm and return the result."""
        return self._run([str(self.smolvm.program), *args], timeout, env, check=check)

    def start(self, machine: str, *, timeout: float, env: Mapping[str, str], interceptor: str = "") -> None:
        """Start a machine, behind the prefix if there is one: it sets the user of the machine's monitor."""
        argv = [*self._prefix, str(self.smolvm.program), *start_argv(machine, interceptor)]
        self._run(argv, timeout, {**env, **(AS_CALLER if self._prefix else {})}, check=True)

    def _run(
        self, argv: list[str], timeout: float, env: Mapping[str, str] | None, *, check: bool
    ) -> Completed:
        try:
            done = process.run(argv, timeout=timeout, check=False, env=self.smolvm.environment(env))
        except CommandFailed as error:
            raise SmolvmError(error.message, why=error.why) from error
        return checked(done) if check else done

    @contextmanager
    def attach(self, args: Sequence[str], *, tty: bool, env: Mapping[str, str]) -> Iterator[Attached]:
        """Run smolvm on our streams. Standard error passes through us, to find smolvm's error messages."""
        argv = [str(self.smolvm.program), *args]
        with process.attached(argv, env=self.smolvm.environment(env), terminal=tty) as child:
            yield _NativeAttached(child, None if tty else child.stderr)

    def pass_secrets(self, values: Mapping[str, Secret]) -> AbstractContextManager[Mapping[str, str]]:
        """Yield the paths of FIFOs in our own folder."""
        return secret_fifos(values, self._folder) if values and self._folder else nullcontext({})

    def path_of(self, file: Path) -> str:
        """Return the file's own path."""
        return str(file.absolute())

    def port_of(self, port: int) -> int:
        """Return the port itself."""
        return port

    def tools(self, folder: Path) -> str:
        """Return the folder's own path."""
        return str(folder)

    def folder(self, path: Path) -> str:
        """Return the folder's own path."""
        return str(path)


class _NativeAttached:
    def __init__(self, child: Child, stderr: IO[bytes] | None) -> None:
        self._child = child
        self._broken = False
        self.stderr_filter = StderrFilter(2)
        self._copier = threading.Thread(target=self._copy, args=(stderr,), daemon=True)
        self._copier.start()

    def _copy(self, stderr: IO[bytes] | None) -> None:
        if stderr is None:
            return
        while data := os.read(stderr.fileno(), 65536):
            try:
                self.stderr_filter.feed(data)
            except OSError:
                self._broken = True
                return

    def wait(self, timeout: float | None = None) -> int | None:
        if self._broken:
            raise BrokenPipeError
        code = self._child.wait(timeout)
        if code is None:
            return None
        self._copier.join(timeout)
        if self._copier.is_alive():
            return None
        self.stderr_filter.close(code)
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        self._child.send(signal.SIGKILL)

    @property
    def failure(self) -> str:
        return self.stderr_filter.failure

    @property
    def last_line(self) -> str:
        return self.stderr_filter.last_line


class StderrFilter:
    """Passes a command's standard error on, except for smolvm's own last line.

    smolvm fails with status 1, which a command may return as well; the difference is a last line
    `{"error":{"code":...,"message":...}}` (its `--error-format json`).
    """

    _START = b'{"error":{'

    def __init__(self, target: int) -> None:
        self._target = target
        self._held = b""
        self._tail = b""
        self.failure = ""

    def feed(self, data: bytes) -> None:
        """Add data of the stream."""
        data = self._held + data
        keep = self._line_start(data)
        self._held = data[keep:]
        self._write(data[:keep])

    def close(self, code: int) -> None:
        """End the stream: drop or write the last line, depending on this exit status."""
        if self._held.startswith(self._START) and code == 1:
            self.failure = error_message(self._held)
        if not self.failure:
            self._write(self._held)
        self._held = b""

    def _line_start(self, data: bytes) -> int:
        """Return where the last line starts, if it may be smolvm's; else the end of the data."""
        start = data.rstrip(b"\n").rfind(b"\n") + 1
        line = data[start : start + 65536]
        may_be = line.startswith(self._START) or (line and self._START.startswith(line))
        return start if may_be and len(data) - start < 65536 else len(data)

    @property
    def last_line(self) -> str:
        """The last line that was passed on, or its last kilobyte."""
        return self._tail.rstrip().rpartition(b"\n")[2].decode("utf-8", "replace")

    def _write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-1024:]
        while data:
            data = data[os.write(self._target, data) :]


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def error_message(text: bytes) -> str:
    """Return smolvm's message from its JSON error line, or the text itself."""
    for line in reversed(text.decode("utf-8", "replace").splitlines()):
        try:
            error = json.loads(line)["error"]
            return f"{error['message']} ({error['code']})"
        except (ValueError, TypeError, KeyError):
            continue
    return _COLOURS.sub("", text.decode("utf-8", "replace")).strip()[-2000:]


def checked(done: Completed) -> Completed:
    """Return a successful result. Raises SmolvmError, with smolvm's message, for any other."""
    if done.code:
        words = error_message(done.stderr.strip() or done.stdout)
        raise SmolvmError(f"smolvm {' '.join(done.argv[1:3])} failed with exit status {done.code}", why=words)
    return done
