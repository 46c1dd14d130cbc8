"""MicroVMs that work beside each other, and such as are killed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.bottle import end
from tests.support.callers import AGENT, Caller, caller
from tests.support.engines import Docker
from tests.support.killing import killed_at_any_moment, states

DIRECT = ("--accel", "direct", "-m", "512m")


@pytest.fixture
def root(docker: Docker, shared_cache: Path) -> Iterator[Caller]:
    with caller(0, docker, cache=shared_cache) as who:
        yield who
        who.bottle("stop", "-t", "0", *states(who.bottle))


@pytest.mark.timeout(900)
def test_microvms_killed_at_any_moment_leave_nothing_and_lose_no_commit(root: Caller, git_image: str) -> None:
    killed_at_any_moment(root, 3, 8.0, *DIRECT, "--image", git_image)


@pytest.mark.timeout(300)
def test_a_fan_of_agents_that_edit_and_commit(root: Caller, git_image: str) -> None:
    before = {*root.bottle.artifacts}  # other tests share the cache
    repo = root.repo()
    options = ("--name", "try", *DIRECT, "--image", git_image, "--json")
    ended = root.bottle("fan", "2", *options, "--", "sh", "-c", AGENT, cwd=repo.top, timeout=200)
    assert ended.code == 0, ended.err
    rows = json.loads(ended.out)
    assert [(row["name"], row["exit_status"], row["commits"]) for row in rows] == [
        ("try-1", 0, 1),
        ("try-2", 0, 1),
    ]
    assert [row["uncommitted"] for row in rows] == [False, True]
    for number in "12":
        assert repo.git("show", f"bottle/try-{number}:README").endswith(f"\n{number}")
        assert root.bottle("logs", f"try-{number}").out.startswith(f"working on bottle/try-{number}\n")
    assert root.bottle("apply", "try-2").code == 0
    assert root.bottle("rm", "try-1", "try-2").code == 0
    assert len({*root.bottle.artifacts} - before) <= 1
    root.left_nothing()


# says that it is there, and then on all three streams what only this bottle has
STREAMS = """
echo there $WHO "$(hostname)"
cat; yes "out of $WHO" | head -n 5000; yes "err of $WHO" | head -n 5000 >&2; exit $WHO
"""


@pytest.mark.slow  # two at once are the fan above
@pytest.mark.timeout(600)
def test_eight_at_once_do_not_mix(root: Caller, git_image: str) -> None:
    """None is given its input before all eight are there."""
    options = ("--accel", "direct", "-m", "256m", "--image", git_image)
    assert root.bottle("run", "-q", *options, "--", "true").code == 0  # makes what all of them boot
    before = {*root.bottle.artifacts}
    with ExitStack() as stack:
        eight = []
        for number in range(8):
            argv = ("run", "-q", *options, "--name", f"at-once-{number}", "-e", f"WHO={number}", "-i")
            command = ("--", "sh", "-c", STREAMS)
            bottle = root.bottle.start(*argv, *command, stdin=subprocess.PIPE)
            stack.callback(bottle.kill)
            eight.append(bottle)
        for number, bottle in enumerate(eight):
            assert bottle.stdout is not None
            assert bottle.stdout.readline() == f"there {number} bottle-at-once-{number}\n", end(bottle)
        with ThreadPoolExecutor(len(eight)) as pool:
            given = [f"input of {number}\n" * 50_000 for number in range(8)]
            results = list(pool.map(lambda each, text: each.communicate(text, timeout=200), eight, given))
    for number, (bottle, (out, err)) in enumerate(zip(eight, results, strict=True)):
        assert out == given[number] + f"out of {number}\n" * 5000
        assert err == f"err of {number}\n" * 5000
        assert bottle.returncode == number
    assert {*root.bottle.artifacts} == before
    root.left_nothing()


def test_a_fan_whose_hosts_do_not_fit_begins_nothing(root: Caller, git_image: str) -> None:
    """There is enough for the bottles themselves, and half of what their hosts take besides."""
    free = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    assert free
    each = max(256, int(free[1]) // 1024 // 16 - 768)
    options = ("--accel", "nested", "-m", f"{each}m", "--image", git_image)
    told = root.bottle("fan", "16", *options, "--", "true", cwd=root.repo().top)
    told.failed(101, "not enough memory", "emulated host")


# prints, leaves files, and does a few things that differ by where it runs
WORK = """
echo "hello $WHO"; echo err >&2
echo more >> README; echo x > "new
line"; rm gone; uname -r > kernel; exit 3
"""


@pytest.mark.timeout(300)
def test_a_twin_shows_what_differs(root: Caller, git_image: str) -> None:
    repo = root.repo()
    options = ("--workspace", "clone", "--name", "try", *DIRECT, "--image", git_image, "-u", "1000")
    command = ("--", "sh", "-c", WORK)
    secret = {"WHO": "a-secret-value"}
    ended = root.bottle(
        "run", "--twin", "--json", "-e", "WHO", *options, *command, cwd=repo.top, timeout=200, env=secret
    )
    assert ended.code == 1, ended
    told = json.loads(ended.out)
    assert [told[each]["exit_status"] for each in ("docker", "smolmachines")] == [3, 3]
    assert told["same"] is False
    rows = {row.pop("what"): row for row in told["compared"]}
    same = {what: row["docker"] for what, row in rows.items() if row["same"]}
    assert same.items() >= {"exit status": "3", "user": "1000:1000", "cwd": "/workspace"}.items()
    assert same["output"] == "2 lines"
    differ = {what: row for what, row in rows.items() if row["same"] is False}
    assert list(differ) == ["files", "files kernel"], differ
    assert differ["files"] == {"docker": "4 files", "smolmachines": "4 files", "same": False}
    assert "a-secret-value" not in ended.out + ended.err
    for name in ("try-docker", "try-smolmachines"):
        assert sorted(root.bottle("logs", name).out.splitlines()) == ["err", "hello a-secret-value"]
        assert "+more" in root.bottle("diff", name).out
    assert root.bottle("rm", "--force", "try-docker", "try-smolmachines").code == 0
    root.left_nothing()
