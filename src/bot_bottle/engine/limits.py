"""The limits of users (getrlimit(2)) that podman's builds and containers are given.

podman asks for more by default than a root without CAP_SYS_RESOURCE may set, as in most CI containers, and
then runs nothing. docker's are the daemon's to set.
"""

from __future__ import annotations

import resource

_FILES = 1 << 20  # podman's own
# podman gives itself no more than the kernel has numbers for processes (pid_max), of which this is the least
_PROCESSES = 1 << 15


def podman_limits() -> list[str]:
    """Return podman's options for limits that it may set, none of them more than ours.

    How many processes a container may have is for `--pids-limit` to say: a user's are counted together.
    """
    wanted = {
        "nofile": min(_FILES, _hard(resource.RLIMIT_NOFILE)),
        "nproc": min(_PROCESSES, _hard(resource.RLIMIT_NPROC)),
    }
    return [f"--ulimit={limit}={value}:{value}" for limit, value in wanted.items()]


def _hard(limit: int) -> int:
    _, hard = resource.getrlimit(limit)
    return _FILES if hard == resource.RLIM_INFINITY else hard
