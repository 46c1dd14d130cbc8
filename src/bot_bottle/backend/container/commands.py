"""The options and variables of a bottle's container. Nothing here runs anything."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.backend.base import BottleConfig
from bot_bottle.errors import SpecError

PIDS = 4096

# variables that the engine's own client reads: in its environment they would change what it does
_OWN_NAME = re.compile(
    r"(PATH|HOME|TMPDIR|SSH_AUTH_SOCK|GO[A-Z]+|(ALL|HTTPS?|NO)_PROXY|REGISTRY_AUTH_FILE"
    r"|(LD|DOCKER|CONTAINER|CONTAINERS|XDG|STORAGE|BUILDKIT|BUILDAH|PODMAN|SSL_CERT)_.*)\Z",
    re.IGNORECASE,
)
_LONGEST_LINE = 32 << 10  # bytes; docker reads lines of less than 64 KiB from such a file


def create_options(launch: BottleConfig, *, network: str, tty: bool) -> list[str]:
    """Return the options of `create` that follow from what was asked for the bottle."""
    options = ["--interactive", "--init", "--pull=never", "--log-driver=none", "--restart=no"]
    options.append("--no-healthcheck")  # the image's own would run before the isolation has been checked
    options += [f"--network={network}", f"--pids-limit={PIDS}", f"--cpus={launch.cpus}"]
    options += [f"--memory={launch.memory_mib}m", f"--memory-swap={launch.memory_mib}m"]
    options += ["--tty"] if tty else []
    return options + user_options(launch)


def user_options(launch: BottleConfig) -> list[str]:
    """Return the options of `create` and `exec` for who runs a command, and where."""
    options = [f"--user={launch.user}"] if launch.user else []
    return options + ([f"--workdir={launch.workdir}"] if launch.workdir else [])


def bind_option(source: Path, target: str, *more: str) -> str:
    """Return `--mount` for a folder or file. It is a line of CSV, so a path may have any character."""
    fields = ["type=bind", f"source={source}", f"target={target}", *more]
    return "--mount=" + ",".join('"' + field.replace('"', '""') + '"' for field in fields)


@contextmanager
def env_file(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a private file with the variables for `--env-file`, and those that the file cannot contain.

    The latter go through the client's own environment. Raises SpecError.
    """
    inherited = inherited_variables(env)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="env-") as file:  # mode 0600
        lines = (f"{name}={value}\n" for name, value in env.items() if name not in inherited)
        file.writelines(os.fsencode(line) for line in lines)
        file.flush()
        yield Path(file.name), inherited


def inherited_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that no file for `--env-file` can contain.

    They have a line break or are long. The engine's client takes them from its environment, so it must not
    read their names itself. Raises SpecError.
    """
    inherited = {name: value for name, value in env.items() if not _fits_line(name, value)}
    for name in inherited:
        if _OWN_NAME.match(name):
            raise SpecError(
                f"a container's {name} must be one line of {_LONGEST_LINE >> 10} KiB at most",
                why="the engine's client reads this variable, so it can only be passed in a file of lines",
                next_step="set it in the command itself: -- sh -c 'export NAME=...; exec ...'",
            )
    return inherited


def _fits_line(name: str, value: str) -> bool:
    return len(os.fsencode(f"{name}={value}")) <= _LONGEST_LINE and not {"\n", "\r"} & set(value)
