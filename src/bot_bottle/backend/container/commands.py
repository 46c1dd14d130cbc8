"""The command lines of a bottle's container. Nothing here runs anything."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bot_bottle.backend.base import BottleConfig
from bot_bottle.engine.engine import Engine
from bot_bottle.engine.limits import podman_limits
from bot_bottle.errors import SpecError

PIDS = 4096

# names that the engine's own client reads: in its environment they would change what it does
_OWN_NAME = re.compile(
    r"(PATH|HOME|TMPDIR|SSH_AUTH_SOCK|GO[A-Z]+|(ALL|HTTPS?|NO)_PROXY|REGISTRY_AUTH_FILE"
    r"|(LD|DOCKER|CONTAINER|CONTAINERS|XDG|STORAGE|BUILDKIT|BUILDAH|PODMAN|SSL_CERT)_.*)\Z",
    re.IGNORECASE,
)
_LONGEST_LINE = 32 << 10  # bytes; docker reads lines of less than 64 KiB from such a file


def create_argv(
    engine: Engine,
    launch: BottleConfig,
    image: str,
    command: Sequence[str],
    options: Sequence[str],
    *,
    network: str,
    tty: bool,
) -> list[str]:
    """Give the command line that makes the container.

    `options` name its variables and mounts, and what its command may do.
    """
    argv = [str(engine.program), "create", f"--name={launch.name}", *options]
    argv += ["--interactive", "--init", "--pull=never", "--log-driver=none", "--restart=no"]
    argv += [f"--network={network}", f"--pids-limit={PIDS}", f"--cpus={launch.cpus}"]
    argv += [f"--memory={launch.memory_mib}m", f"--memory-swap={launch.memory_mib}m"]
    argv += podman_limits() if engine.name == "podman" else []
    if tty:
        argv.append("--tty")
    if launch.user:
        argv.append(f"--user={launch.user}")
    if launch.workdir:
        argv.append(f"--workdir={launch.workdir}")
    return [*argv, f"--entrypoint={command[0]}", image, *command[1:]]


def client_argv(engine: Engine) -> list[str]:
    """Return how the engine's client begins where a command's own standard error is its standard error.

    podman warns there of what it finds on this machine, such as cgroup v1.
    """
    return [str(engine.program), *(["--log-level=error"] if engine.name == "podman" else [])]


def bind_option(source: Path, target: str, *more: str) -> str:
    """Give `--mount` for a folder or file. Engines read it as a line of CSV, so a path may hold anything."""
    fields = ["type=bind", f"source={source}", f"target={target}", *more]
    return "--mount=" + ",".join('"' + field.replace('"', '""') + '"' for field in fields)


@contextmanager
def env_file(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a private file with the variables for `--env-file`, and those that such a file cannot carry.

    Those come from the client's own environment. Raises SpecError.
    """
    inherited = inherited_variables(env)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="env-") as file:  # mode 0600
        lines = (f"{name}={value}\n" for name, value in env.items() if name not in inherited)
        file.writelines(os.fsencode(line) for line in lines)
        file.flush()
        yield Path(file.name), inherited


def inherited_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that no file for `--env-file` can carry.

    They hold a line break or are long. The engine's client takes them from its environment, so their names
    must mean nothing to it. Raises SpecError.
    """
    inherited = {name: value for name, value in env.items() if not _fits_line(name, value)}
    for name in inherited:
        if _OWN_NAME.match(name):
            raise SpecError(
                f"a container's {name} must be one line of {_LONGEST_LINE >> 10} KiB at most",
                why="the engine's own program reads this name, so it can only come from a file of lines",
                next_step="set it in the command itself: -- sh -c 'export NAME=...; exec ...'",
            )
    return inherited


def _fits_line(name: str, value: str) -> bool:
    return len(os.fsencode(f"{name}={value}")) <= _LONGEST_LINE and not {"\n", "\r"} & set(value)
