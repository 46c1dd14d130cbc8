"""A canary: the value of a secret, which the microVM's command has, is nowhere else."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.cache import parts
from tests.support.canary import Canary, holders
from tests.vm.conftest import COMMAND
from tests.vm.test_run import left_behind

TELL = 'printf %s "$KEY" | sha256sum'
ENDS = {
    "succeeds": ("exit 0", 0),
    "fails": ("exit 3", 3),
    "crashes": ("kill -SEGV $$", 139),
    "is killed": ("sleep 600", -signal.SIGKILL),
}


@pytest.mark.parametrize(
    "end",
    [
        "succeeds",
        "is killed",
        pytest.param("fails", marks=pytest.mark.slow),
        pytest.param("crashes", marks=pytest.mark.slow),
    ],
)
def test_a_canary_is_nowhere_while_it_runs_and_after(
    image: str, shared_cache: Path, canary: Canary, tmp_path: Path, end: str
) -> None:
    script, status = ENDS[end]
    argv = [
        *COMMAND,
        "run",
        "-v",
        "--accel=direct",
        "-m",
        "1g",
        "--image",
        image,
        f"--secret=id=KEY,src={canary.path}",
        "--",
    ]
    argv += ["sh", "-c", f"{TELL}; read -r _; {script}"]
    with (
        (tmp_path / "said").open("wb") as said,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline().split()[:1] == [canary.sha256], (tmp_path / "said").read_text()
        assert holders(canary.value) == []
        if end == "is killed":
            child.kill()
        else:
            child.stdin.write(b"\n")
            child.stdin.close()
        assert child.wait(120) == status
    if end == "is killed":
        subprocess.run([*COMMAND, "cache", "prune"], check=True, timeout=60, capture_output=True)
        assert left_behind(shared_cache) == []
    [qemu] = [line for line in (tmp_path / "said").read_text().splitlines() if " -kernel " in line]
    assert qemu.split()[1].endswith("qemu-system-x86_64"), qemu  # not the program that confines it
    assert canary.places(tmp_path, *parts(shared_cache)) == []
    assert f"{tmp_path}/bot-bottle-state/receipts/" in "".join(map(str, tmp_path.rglob("*.json")))
