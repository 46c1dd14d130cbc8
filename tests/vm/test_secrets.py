"""A canary: the value of a secret, which the microVM's command has, is nowhere else."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.backend_suite import Attach
from tests.support.canary import Canary, holders
from tests.vm.conftest import COMMAND

from bot_bottle.redaction import Secret
from bot_bottle.vm.session import END

TELL = 'printf %s "$KEY" | sha256sum'
ENDS = {
    "succeeds": ("exit 0", 0),
    "fails": ("exit 3", 3),
    "crashes": ("kill -SEGV $$", 139),
    "is killed": ("sleep 600", -signal.SIGKILL),
}

Inside = Callable[[str], int]


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary.made(tmp_path / "key")


@pytest.mark.parametrize("end", ENDS)
def test_a_canary_is_nowhere_while_it_runs_and_after(
    image: str, shared_cache: Path, canary: Canary, tmp_path: Path, end: str
) -> None:
    script, status = ENDS[end]
    argv = [*COMMAND, "run", "-v", "-m", "1g", "--image", image, f"--secret=id=KEY,src={canary.path}", "--"]
    argv += ["sh", "-c", f"{TELL}; sleep 2; {script}"]
    with (
        (tmp_path / "said").open("wb") as said,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=said) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline().split()[:1] == [canary.sha256], (tmp_path / "said").read_text()
        assert holders(canary.value) == []
        if end == "is killed":
            child.kill()
        assert child.wait(120) == status
    if end == "is killed":
        subprocess.run([*COMMAND, "cache", "prune"], check=True, timeout=60, capture_output=True)
    assert canary.places(tmp_path, shared_cache) == []
    assert f"{tmp_path}/bot-bottle-state/receipts/" in "".join(map(str, tmp_path.rglob("*.json")))


def test_values_arrive_whole_and_the_host_of_smolvm_has_them_nowhere(
    attach: Attach, inside: Inside, canary: Canary
) -> None:
    """What smolvm's own processes and files hold, on the machine that it runs on."""
    values = {"KEY": Secret(canary.path.read_text().rstrip("\n")), "LARGE": Secret("x" * 65536)}
    script = f'{TELL}; printf %s "$LARGE" | wc -c; sleep 300'
    half = len(canary.value) // 2
    parts = canary.value[:half].decode(), canary.value[half:].decode()
    # a zero byte ends a line for that grep
    search = "printf '%s%s\\n' {} {} > /run/pattern; cat {} | tr '\\0' '\\n' | grep -q -f /run/pattern"
    runs = search.format("sha2", "56sum", "/proc/[0-9]*/cmdline")
    steps = [
        f"until {{ {runs}; }}; do sleep 1; done; sleep 5",
        search.format(*parts, "/proc/[0-9]*/cmdline /proc/[0-9]*/environ"),
        runs,  # it was there to be searched
        search.format(*parts, "$(find /root -type f -size -20000k)"),
        END,
    ]
    with ThreadPoolExecutor() as pool:
        searched = pool.submit(lambda: [inside(step) for step in steps])
        assert attach("sh", "-c", script, secrets=values).out.split() == [canary.sha256, b"-", b"65536"]
        assert searched.result(60) == [0, 1, 0, 1, 0]


def test_a_command_that_is_not_there_keeps_nobody_waiting(attach: Attach) -> None:
    assert attach("no-such-command", secrets={"KEY": Secret("canary-value")}).code == 127
