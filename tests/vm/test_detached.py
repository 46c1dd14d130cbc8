"""A microVM in the background: seen, read, ended in order, and nothing left."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from tests.vm.conftest import COMMAND
from tests.vm.test_run import BOOT, HELLO, left_behind


def bottle(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, timeout=BOOT, check=False, text=True)


@pytest.mark.usefixtures("docker")
def test_a_microvm_in_the_background(shared_cache: Path) -> None:
    subprocess.run([HELLO / "prepare"], check=True, timeout=30)
    script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.2; done"
    begun = bottle("run", "--accel=direct", "-d", "--name", "day", HELLO, "--", "sh", "-c", script)
    assert (begun.returncode, begun.stdout) == (0, "day\n"), begun
    deadline = time.monotonic() + 60
    while bottle("logs", "day").stdout != "up\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (known,) = json.loads(bottle("ls", "--json").stdout)
    assert (known["name"], known["state"], known["backend"]) == ("day", "running", "smolmachines")
    assert left_behind(shared_cache) != []
    receipt = json.loads(bottle("show", "--json", "day").stdout)
    assert receipt["place"] == "direct"
    assert bottle("stop", "-t", "60", "day").stdout == "day\n"
    said = bottle("logs", "day").stdout.splitlines()
    assert said[0] == "up"
    assert "bye" in said  # beside it, on the other stream, the shell may say that its sleep was ended
    ended = json.loads(bottle("show", "--json", "day").stdout)
    assert ended["exit_status"] == 5
    stages = ("prepare", "network", "start", "setup", "proof", "boot", "command", "total")
    assert {*stages} <= {*ended["seconds"]}
    assert left_behind(shared_cache) == []
    assert bottle("prune").stdout == "removed day\n"
