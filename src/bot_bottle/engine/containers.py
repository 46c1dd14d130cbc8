"""Containers through the engine's command line, and removal of those of killed commands by their labels.

The caller chooses the options, and so what a container may do.
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

# variables that decide which engine a client uses
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
_TIMEOUT = 120.0  # seconds, for calls that do not wait for a container's command
_AGAIN = 300.0
# no key detaches, because nobody would stop a detached container
_NO_DETACH = "--detach-keys=ctrl-@,ctrl-^,ctrl-@,ctrl-_,ctrl-@"


class Containers:
    """The containers of the engine of `program`, whose environment is `env` (None: ours).

    `quiet` are options by which a client prints no warnings of its own.

    Methods raise CommandFailed when the program cannot be started or does not exit in time, and, if they do
    not return its result, when it fails.
    """

    def __init__(
        self, program: Path, env: Mapping[str, str] | None = None, *, quiet: Sequence[str] = ()
    ) -> None:
        self._program = str(program)
        self._env = env
        self._attached = (self._program, *quiet)  # its standard error is that of the container's command

    @classmethod
    def from_record(cls, stray: Mapping[str, Any]) -> Containers:
        """Return the containers of the engine that a killed command used, recorded by `engine_record`."""
        return cls(Path(stray["program"]), engine_environment(stray["variables"]))

    def create(
        self,
        image: str,
        command: Sequence[str],
        options: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Create a container without starting it; the result has its id. `env` is for the client."""
        argv = (self._program, "create", *options, image, *command)
        return process.run(argv, timeout=_TIMEOUT, check=False, env=env or self._env)

    def run(self, image: str, command: Sequence[str], options: Sequence[str]) -> None:
        """Run a container until it exits, and remove it."""
        process.run(self._run_argv(image, command, options), timeout=_TIMEOUT, env=self._env)

    def run_in_background(
        self, image: str, command: Sequence[str], options: Sequence[str], output: IO[bytes]
    ) -> AbstractContextManager[Child]:
        """Run a container until the block ends; the engine removes it when its command has exited.

        Its client stays attached and writes both streams to `output`: `--rm` removes the log of a container
        with it, so `docker logs` would have nothing of one that has exited.
        """
        argv = self._run_argv(image, command, options)
        return process.background(argv, env=self._env, output=output)

    def start(self, container: str, *, terminal: bool) -> AbstractContextManager[Child]:
        """Start a created container, attached to our own streams."""
        argv = (*self._attached, "start", "--attach", "--interactive", _NO_DETACH, container)
        return process.attached(argv, env=self._env, terminal=terminal)

    def start_again(self, container: str) -> Completed:
        """Start a container that has exited, without input, and return its result when it exits again."""
        argv = (self._program, "start", "--attach", container)
        return process.run(argv, timeout=_AGAIN, check=False, env=self._env)

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
        """Run another command in a container, without input, and return the result."""
        argv = (self._program, "exec", *options, container, *command)
        return process.run(argv, timeout=timeout, check=False, env=self._env)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return the engine's description of a container."""
        argv = (self._program, "container", "inspect", container)
        document: dict[str, Any] = json.loads(process.run(argv, timeout=_TIMEOUT, env=self._env).stdout)[0]
        return document

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container's first process, if it still runs."""
        argv = (self._program, "kill", f"--signal={signal}", container)
        process.run(argv, timeout=_TIMEOUT, check=False, env=self._env)

    def copy(self, container: str, path: str) -> Completed:
        """Copy a file from a container, running or not: the output is a tar of it."""
        argv = (self._program, "cp", f"{container}:{path}", "-")
        return process.run(argv, timeout=_TIMEOUT, check=False, env=self._env)

    def port(self, container: str, port: str, *, timeout: float) -> str:
        """Return the address of a container's published port (`5000/tcp`), "" until it is published."""
        argv = (self._program, "port", container, port)
        return process.run(argv, timeout=timeout, check=False, env=self._env).text

    def remove(self, label: str) -> None:
        """Remove every container with a label (`KEY=VALUE`), running or not, and its volumes.

        podman removes a container whose network another one uses only after that one.
        """
        with defer_signals():
            listing = (self._program, "ps", "--all", "--quiet", f"--filter=label={label}")
            while found := process.run(listing, timeout=_REMOVED_WITHIN, env=self._env).text.split():
                removal = (self._program, "rm", "--force", "--volumes", *found)
                done = process.run(removal, timeout=_REMOVED_WITHIN, env=self._env, check=False)
                if len(found) == 1 or not done.code:
                    return
                if not set(done.text.split()) & set(found):
                    return  # none of them can be removed

    def record(self, run: RunDir, kind: str, label: str) -> None:
        """Record a container that is about to be created, for a sweep to find. `label` is `KEY=VALUE`."""
        run.record(kind, label=label, **engine_record(Path(self._program)))

    def _run_argv(self, image: str, command: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
        return (self._program, "run", "--rm", *options, image, *command)


def engine_record(program: Path) -> dict[str, Any]:
    """Return what a record needs to find the engine again."""
    return {"program": str(program), "variables": engine_variables()}


def engine_variables() -> dict[str, str]:
    """Return the variables of our environment that decide which engine a client uses."""
    return {key: os.environ[key] for key in _ENGINE_VARIABLES if key in os.environ}


def engine_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment for a client that uses the engine of a recorded command."""
    return {key: value for key, value in os.environ.items() if key not in _ENGINE_VARIABLES} | dict(variables)


def sweep(stray: Mapping[str, Any]) -> None:
    """Remove the container of a killed command. Raises CommandFailed."""
    Containers.from_record(stray).remove(stray["label"])
