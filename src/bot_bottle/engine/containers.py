"""Containers that are ours: found by their label, and removed whoever has ended."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot_bottle.host import process
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
_TIMEOUT = 60.0  # seconds


def record(run: RunDir, kind: str, program: Path, label: str) -> None:
    """Name a container that is about to be made, so that a sweep finds it. `label` is `KEY=VALUE`."""
    run.record(kind, program=str(program), label=label, variables=engine_variables())


def engine_variables() -> dict[str, str]:
    """Give what of our environment decides which engine a client talks to."""
    return {key: os.environ[key] for key in _ENGINE_VARIABLES if key in os.environ}


def engine_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our environment, but for a client that is to talk to the engine of a recorded command."""
    return {key: value for key, value in os.environ.items() if key not in _ENGINE_VARIABLES} | dict(variables)


def remove(program: str, label: str, env: Mapping[str, str] | None = None) -> None:
    """Remove every container with a label, running or not, and its volumes. Raises CommandFailed.

    One whose network another of them uses goes when that has gone: podman wants it so.
    """
    with defer_signals():
        listing = (program, "ps", "--all", "--quiet", f"--filter=label={label}")
        while found := process.run(listing, timeout=_TIMEOUT, env=env).text.split():
            removal = (program, "rm", "--force", "--volumes", *found)
            done = process.run(removal, timeout=_TIMEOUT, env=env, check=False)
            if len(found) == 1 or not done.code:
                return
            if not set(done.text.split()) & set(found):
                return  # none of them can be


def sweep(stray: Mapping[str, Any]) -> None:
    """Remove the container of a command that was killed. Raises CommandFailed."""
    remove(stray["program"], stray["label"], engine_environment(stray["variables"]))
