"""The limits of users (getrlimit(2)) that podman's builds and containers are given.

podman asks for more by default than a root without CAP_SYS_RESOURCE may set, as in most CI containers, and
then runs nothing. docker's are the daemon's to set.
"""

from __future__ import annotations

import resource

_DEFAULT = 1 << 20  # of podman, for both


def podman_limits(processes: int = _DEFAULT) -> list[str]:
    """Return podman's options for limits that we may set: those that it has by itself, but no more than ours.

    `processes` is how many a user may have at most. Of a container `--pids-limit` says how many it may have.
    """
    wanted = {
        "nofile": min(_DEFAULT, _hard(resource.RLIMIT_NOFILE)),
        "nproc": min(processes, _hard(resource.RLIMIT_NPROC)),
    }
    return [f"--ulimit={limit}={value}:{value}" for limit, value in wanted.items()]


def _hard(limit: int) -> int:
    _, hard = resource.getrlimit(limit)
    return _DEFAULT if hard == resource.RLIM_INFINITY else hard
