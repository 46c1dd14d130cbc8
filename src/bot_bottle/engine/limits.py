"""The resource limits (getrlimit(2)) of podman's builds and containers.

podman's defaults are higher than a root without CAP_SYS_RESOURCE may set, as in most CI containers, and then
it runs nothing. docker's limits are set by its daemon.
"""

from __future__ import annotations

import resource

_FILES = 1 << 20  # podman's default
# podman's default is at most the kernel's pid_max, of which this is the minimum
_PROCESSES = 1 << 15


def podman_limits() -> list[str]:
    """Return podman's options for limits that it may set, none of them above ours.

    The number of processes in a container is limited by `--pids-limit`: this limit counts a user's processes
    together.
    """
    wanted = {
        "nofile": min(_FILES, _hard(resource.RLIMIT_NOFILE)),
        "nproc": min(_PROCESSES, _hard(resource.RLIMIT_NPROC)),
    }
    return [f"--ulimit={limit}={value}:{value}" for limit, value in wanted.items()]


def _hard(limit: int) -> int:
    _, hard = resource.getrlimit(limit)
    return _FILES if hard == resource.RLIM_INFINITY else hard
