"""Containers by the engine's command line, and those of killed commands found by their labels and removed.

Options are the caller's: what a container may do is decided where it is asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from bot_bottle.host import process
from bot_bottle.host.process import Child, Completed
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.signals import defer_signals

# what decides which engine a client talks to
_ENGINE_VARIABLES = (
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "CONTAINER_HOST",
    "CONTAINER_CONNECTION",
    "CONTAINERS_CONF",
    "CONTAINERS_CONF_OVERRIDE",
    "CONTAINERS_STORAGE_CONF",
)
_REMOVED_WITHIN = 60.0  # seconds
_TIMEOUT = 120.0  # seconds, for what does not wait for a container's command
# no key detaches: a container that runs on with nobody attached would be one that nobody ends
_NO_DETACH = "--detach-keys=ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-@"


class Containers:
    """The containers of the engine that `program` talks to, with `env` for its environment (None: ours).

    `quiet` are options by which a client prints no warnings of its own.

    Methods raise CommandFailed when the program cannot be started or does not end in time, and those that
    return something else than its result when it fails.
    """

    def __init__(
        self, program: Path, env: Mapping[str, str] | None = None, *, quiet: Sequence[str] = ()
    ) -> None:
        self._program = str(program)
        self._env = env
        self._attached = (self._program, *quiet)  # its standard error is that of the container's command

    @classmethod
    def from_record(cls, stray: Mapping[str, Any]) -> Containers:
        """Return those of the engine that a killed command used, by what `engine_record` has recorded."""
        return cls(Path(stray["program"]), engine_environment(stray["variables"]))

    def create(
        self,
        image: str,
        command: Sequence[str],
        options: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Make a container and do not start it; the result has its id. `env` is for the client."""
        argv = (self._program, "create", *options, image, *command)
        return process.run(argv, timeout=_TIMEOUT, check=False, env=env or self._env)

    def run(self, image: str, command: Sequence[str], options: Sequence[str]) -> None:
        """Run a container to its end, and remove it."""
        process.run(self._run_argv(image, command, options), timeout=_TIMEOUT, env=self._env)

    def run_in_background(
        self, image: str, command: Sequence[str], options: Sequence[str], output: IO[bytes]
    ) -> AbstractContextManager[Child]:
        """Run a container until the block ends; the engine removes it when its command has ended.

        Its client stays attached and writes both streams to `output`. What a container with `--rm` has
        printed is gone with it, so `docker logs` would have nothing of one that ended by itself.
        """
        argv = self._run_argv(image, command, options)
        return process.background(argv, env=self._env, output=output)

    def start(self, container: str, *, terminal: bool) -> AbstractContextManager[Child]:
        """Start a container that `create` made, attached to our own streams."""
        argv = (*self._attached, "start", "--attach", "--interactive", _NO_DETACH, container)
        return process.attached(argv, env=self._env, terminal=terminal)

    def execute(
        self,
        container: str,
        command: Sequence[str],
        options: Sequence[str],
        *,
        env: Mapping[str, str],
        terminal: bool,
    ) -> AbstractContextManager[Child]:
        """Run another command in a container, attached to our own streams. `env` is for the client."""
        wanted = ("--interactive", _NO_DETACH, *(["--tty"] if terminal else []), *options)
        argv = (*self._attached, "exec", *wanted, container, *command)
        return process.attached(argv, env=env, terminal=terminal)

    def output_of(
        self,
        container: str,
        command: Sequence[str],
        options: Sequence[str] = (),
        *,
        timeout: float = _TIMEOUT,
    ) -> Completed:
        """Run another command in a container, without input, and return what it printed."""
        argv = (self._program, "exec", *options, container, *command)
        return process.run(argv, timeout=timeout, check=False, env=self._env)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the engine says of a container."""
        argv = (self._program, "container", "inspect", container)
        document: dict[str, Any] = json.loads(process.run(argv, timeout=_TIMEOUT, env=self._env).stdout)[0]
        return document

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container's first process, if it still runs."""
        argv = (self._program, "kill", f"--signal={signal}", container)
        process.run(argv, timeout=_TIMEOUT, check=False, env=self._env)

    def copy(self, container: str, path: str) -> Completed:
        """Copy a file out of a container, running or not: the output is a tar of it."""
        argv = (self._program, "cp", f"{container}:{path}", "-")
        return process.run(argv, timeout=_TIMEOUT, check=False, env=self._env)

    def port(self, container: str, port: str, *, timeout: float) -> str:
        """Return where the engine publishes a container's port (`5000/tcp`), "" where it does not yet."""
        argv = (self._program, "port", container, port)
        return process.run(argv, timeout=timeout, check=False, env=self._env).text

    def remove(self, label: str) -> None:
        """Remove every container with a label (`KEY=VALUE`), running or not, and its volumes.

        One whose network another of them uses goes when that has gone: podman wants it so.
        """
        with defer_signals():
            listing = (self._program, "ps", "--all", "--quiet", f"--filter=label={label}")
            while found := process.run(listing, timeout=_REMOVED_WITHIN, env=self._env).text.split():
                removal = (self._program, "rm", "--force", "--volumes", *found)
                done = process.run(removal, timeout=_REMOVED_WITHIN, env=self._env, check=False)
                if len(found) == 1 or not done.code:
                    return
                if not set(done.text.split()) & set(found):
                    return  # none of them can be

    def record(self, run: RunDir, kind: str, label: str) -> None:
        """Record a container that is about to be made, so that `sweep` finds it. `label` is `KEY=VALUE`."""
        run.record(kind, label=label, **engine_record(Path(self._program)))

    def _run_argv(self, image: str, command: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
        return (self._program, "run", "--rm", *options, image, *command)


def engine_record(program: Path) -> dict[str, Any]:
    """Return what a record needs to have of an engine for the engine to be found again."""
    return {"program": str(program), "variables": engine_variables()}


def engine_variables() -> dict[str, str]:
    """Return what of our environment decides which engine a client talks to."""
    return {key: os.environ[key] for key in _ENGINE_VARIABLES if key in os.environ}


def engine_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment, but for a client that is to talk to the engine of a recorded command."""
    return {key: value for key, value in os.environ.items() if key not in _ENGINE_VARIABLES} | dict(variables)


def sweep(stray: Mapping[str, Any]) -> None:
    """Remove the container of a command that was killed. Raises CommandFailed."""
    Containers.from_record(stray).remove(stray["label"])
