"""The only module that starts programs.

Every child gets a session of its own, so that a Ctrl-C at the terminal reaches bot-bottle alone, which then
decides; every child is ended on every way out; every wait has a limit; and there is one failure type.
Arguments that must not be shown are `Masked`; values of secrets are redacted everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from msgspec import Struct

from bot_bottle.errors import CommandError
from bot_bottle.host import paths, process_tree, redact
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step

log = logging.getLogger(__name__)

_TAIL_LINES = 40
_TAIL_LINE_BYTES = 2000
_CAPTURE_LIMIT = 64 << 20


class Masked(str):
    """An argument whose value is never shown: `Masked("TOKEN=abc", "TOKEN=***")`."""

    __slots__ = ("shown",)
    shown: str

    def __new__(cls, value: str, shown: str = "***") -> Masked:
        """Make a string that shows itself as `shown` in logs and errors."""
        text = super().__new__(cls, value)
        text.shown = shown
        return text

    def __repr__(self) -> str:
        return repr(self.shown)


class ShownAs(list[str]):
    """A command line that is shown as another: as the one that the program starts after some preparation."""

    def __init__(self, argv: Sequence[str], instead: Sequence[str]) -> None:
        super().__init__(argv)
        self.instead = instead


def shown(argv: Sequence[str]) -> str:
    """Return the command line as a shell would read it, with masked arguments hidden."""
    argv = argv.instead if isinstance(argv, ShownAs) else argv
    return redact.redacted(shlex.join(part.shown if isinstance(part, Masked) else part for part in argv))


class Completed(Struct, frozen=True):
    """The result of a program. `code` is negative for a signal, as in subprocess."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the space around it."""
        return self.stdout.decode("utf-8", "replace").strip()

    def checked(self) -> Completed:
        """Return it, or raise CommandFailed where the program ended with another status than 0."""
        if self.code:
            raise CommandFailed(self)
        return self

    @property
    def complaint(self) -> str:
        """The program's error message: standard error, or standard output if that is empty."""
        return redact.redacted((self.stderr.strip() or self.stdout.strip()).decode("utf-8", "replace"))


class CommandFailed(CommandError):
    """A program failed. Has its command line, exit code and output, for the caller to explain."""

    def __init__(self, done: Completed, reason: str = "") -> None:
        name = Path(done.argv[0]).name
        super().__init__(
            f"{name} {reason or f'failed with exit status {done.code}'}",
            why=f"{done.complaint}\ncommand: {shown(done.argv)}",
        )
        self.done = done

    @property
    def not_found(self) -> bool:
        """Whether the program does not exist."""
        return self.done.code == 127 and not self.done.stdout


def find(name: str) -> Path | None:
    """Find a program on PATH, or in the folders of root's programs that some PATHs leave out."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    check: bool = True,
    input: bytes | IO[bytes] = b"",
    output: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a program to its end and return its output.

    `timeout` is in seconds; `input` and `output` may be files, for what is too much to hold; `env` is the
    whole environment (default: ours). Raises CommandFailed when it is not found, does not end in time or,
    with `check`, ends with another status than 0.
    """
    given, stdin = (input, subprocess.PIPE) if isinstance(input, bytes) else (None, input)
    stdout = output or subprocess.PIPE
    with _started(argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE) as child:
        try:
            out, err = child.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            done = Completed(tuple(argv), -signal.SIGKILL, error.stdout or b"", error.stderr or b"")
            raise CommandFailed(done, f"did not end within {timeout:g} s") from error
    done = Completed(tuple(argv), child.returncode, (out or b"")[:_CAPTURE_LIMIT], err[:_CAPTURE_LIMIT])
    return done.checked() if check else done


def follow(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a program, and call `on_line` with each line of its two streams as it comes.

    The result has the last lines as `stderr`; its `code` is for the caller to judge. There is no time limit:
    a build takes as long as it takes, and the user sees its progress.
    """
    tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
    with _started(
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None  # noqa: S101 - asked for above
        while line := child.stdout.readline(_TAIL_LINE_BYTES):
            tail.append(line.rstrip())
            on_line(line.decode("utf-8", "replace").rstrip())
        child.wait()
    return Completed(tuple(argv), child.returncode, b"", b"\n".join(tail))


@contextmanager
def reading(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: IO[bytes] | None = None,
) -> Iterator[BinaryIO]:
    """Yield a program's standard output as a stream; nothing is kept of it. `input` is a file for it to read.

    When the block has read to the end, the program's status is checked: a stream that stopped because its
    program failed raises CommandFailed and is never taken as complete. When the block ends early, the
    program is ended.
    """
    with _started(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if input is None else input,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None  # noqa: S101 - asked for above
        assert child.stderr is not None  # noqa: S101
        tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        drain = threading.Thread(target=_drain, args=(child.stderr, tail), daemon=True)
        drain.start()
        yield child.stdout  # type: ignore[misc]  # a buffered reader is a BinaryIO in all but name
        if child.stdout.read(1):
            return  # the block has what it wanted; _started ends the program
        child.wait()
        drain.join(timeout=5)
        if child.returncode:
            raise CommandFailed(Completed(tuple(argv), child.returncode, b"", b"\n".join(tail)))


class Child:
    """A program that runs in the background until it is stopped. Made by `background`."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: Sequence[str]) -> None:
        self._popen = popen
        self.argv = tuple(argv)
        self.pid = popen.pid

    @property
    def stderr(self) -> IO[bytes] | None:
        """Its standard error, if that comes to us."""
        return self._popen.stderr

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, `timeout` seconds at most, and return its code or None."""
        _ended(self._popen, timeout)
        return self._popen.returncode

    def send(self, signum: int) -> None:
        """Send a signal to the program's whole group."""
        process_tree.signal_group(self.pid, signum)


@contextmanager
def background(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | None = None,
    channel: socket.socket | None = None,
    inherited: Sequence[int] = (),
) -> Iterator[Child]:
    """Run a program in the background and end it when the block ends. `output` takes both of its streams.

    `channel` is its standard input, and is closed here once the program has it. `inherited` are descriptors
    that it has too, with the same numbers.
    """
    sink: Any = output if output is not None else subprocess.DEVNULL
    source: Any = channel if channel is not None else subprocess.DEVNULL
    with _started(
        argv, env=env, cwd=cwd, stdin=source, stdout=sink, stderr=sink, inherited=inherited
    ) as child:
        if channel is not None:
            channel.close()
        yield Child(child, argv)


@contextmanager
def attached(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    terminal: bool = False,
) -> Iterator[Child]:
    """Run a program on our own three streams.

    With `terminal` it stays in our session, so that it may set the terminal's mode and hear of its size;
    without, its standard error comes to us, as the child's `stderr`.
    """
    stderr = None if terminal else subprocess.PIPE
    with _started(
        argv, env=env, cwd=None, stdin=None, stdout=None, stderr=stderr, session=not terminal
    ) as child:
        yield Child(child, argv)


@contextmanager
def _started(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    session: bool = True,
    inherited: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    log.info("+ %s", shown(argv))
    with ExitStack() as stack:
        with defer_signals():
            try:
                streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "cwd": cwd}
                env = paths.correct_environment(redact.environment(env))
                child = subprocess.Popen(  # noqa: S603 - a list of arguments, never a shell
                    list(argv), env=env, start_new_session=session, pass_fds=inherited, **streams
                )
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                failed = CommandFailed(Completed(tuple(argv), 127, b"", why.encode()), "could not be started")
                if isinstance(error, OSError):
                    failed.next_step = next_step(error, "")
                raise failed from error
            stack.callback(_end, child, session)
            if session:
                process_tree.announce_start(child.pid)
        yield child


def _end(child: subprocess.Popen[bytes], session: bool) -> None:
    """End a child that may still run, and everything in its session; then close its pipes."""
    wait = functools.partial(_ended, child)
    with defer_signals():
        if not session:
            child.terminate()
            if not wait(5):
                child.kill()
        elif child.poll() is None:
            process_tree.end_session(child.pid, wait)
        else:
            process_tree.signal_group(child.pid, signal.SIGKILL)
        child.wait(30)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _ended(child: subprocess.Popen[bytes], seconds: float | None) -> bool:
    if seconds and sys.platform == "linux" and child.poll() is None:
        with contextlib.suppress(OSError):
            _await(child.pid, seconds)
            seconds = 0
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    return child.returncode is not None


def _await(pid: int, seconds: float) -> None:
    """Wait for a child's end without the pauses of Popen.wait, which are up to 50 ms (pidfd_open(2))."""
    descriptor = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(seconds * 1000)
    finally:
        os.close(descriptor)


def _drain(stream: IO[bytes], tail: deque[bytes]) -> None:
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline(_TAIL_LINE_BYTES):
            tail.append(line.rstrip())
