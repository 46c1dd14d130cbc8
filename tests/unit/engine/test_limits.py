"""The limits that podman is given: none above our own, whatever those are."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
nofile, nproc = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
resource.setrlimit(resource.RLIMIT_NPROC, (nproc, nproc))
from bot_bottle.engine.limits import podman_limits
print(*podman_limits())
"""


@pytest.mark.parametrize(
    ("nofile", "nproc", "told"),
    [
        (500, 3000, "--ulimit=nofile=500:500 --ulimit=nproc=3000:3000"),
        (600, 40000, "--ulimit=nofile=600:600 --ulimit=nproc=32768:32768"),
    ],
)
def test_no_limit_is_above_ours(nofile: int, nproc: int, told: str) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(nofile), str(nproc)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == told
