"""A real agent's image of about 1 GB: packed in little memory, and the agent answers from its microVM."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.engines import CHECKOUT, Docker
from tests.vm.conftest import COMMAND

AGENT = CHECKOUT / "examples" / "agent"


@pytest.fixture(scope="module")
def agent_image(docker: Docker) -> str:
    """The image of examples/agent. The first time takes minutes."""
    subprocess.run([AGENT / "prepare"], env=docker.env, check=True, timeout=1500)
    return docker.build(AGENT)


def tree(root: int) -> list[int]:
    """The processes of a tree, the root first."""
    found = [root]
    for pid in found:  # grows while it is read
        with suppress(OSError):
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def resident(pid: int) -> int:
    """The bytes of memory that a process holds."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_is_packed_in_little_memory_and_answers(agent_image: str, shared_cache: Path) -> None:
    argv = [*COMMAND, "pack", "--json", "--image", agent_image]
    peak = 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as packing:
        while packing.poll() is None:
            peak = max(peak, sum(resident(pid) for pid in tree(packing.pid)))
            time.sleep(0.05)
        out, err = packing.communicate()
    assert packing.returncode == 0, err
    packed = json.loads(out)
    assert packed["cache"] == "miss"
    assert packed["size"] > 200_000_000
    assert peak < 250_000_000
    answer = subprocess.run(
        [*COMMAND, "run", "-q", "--image", agent_image],
        capture_output=True,
        timeout=1200,
        check=False,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert "(Claude Code)" in answer.stdout
