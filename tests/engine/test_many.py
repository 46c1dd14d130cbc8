"""Bottles that run beside each other and in the background: seen, read, ended, and cleaned up after."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from tests.support.bottle import PROGRAM, Ended, end, wait_until
from tests.support.callers import AGENT, Caller, caller, git_context
from tests.support.engine_matrix import Case
from tests.support.engines import Docker, Podman
from tests.support.killing import killed_at_any_moment, states
from tests.support.repos import Repo


@pytest.fixture
def root(docker: Docker) -> Iterator[Caller]:
    with caller(0, docker) as who:
        yield who
        who.bottle("stop", "-t", "0", *states(who.bottle))


def detached(who: Caller, git_image: str, name: str, script: str, *options: str) -> None:
    repo = who.folder / "repo"
    repo = repo if repo.exists() else who.repo().top
    docker = ("--backend", "docker", "--image", git_image, "--name", name)
    ended = who.bottle("run", "-q", "-d", *docker, *options, "--", "sh", "-c", script, cwd=repo)
    assert (ended.code, ended.out, ended.err) == (0, f"{name}\n", "")


TOLD_TO_GO_ON = "until [ -e go-on ]; do sleep 0.1; done"


def go_on(workspace: Path) -> None:
    """Let a command that runs TOLD_TO_GO_ON in this workspace go on."""
    (workspace / "go-on").touch()


def test_a_detached_bottle_is_listed_and_logged_until_it_is_removed(root: Caller, git_image: str) -> None:
    script = f"echo out; echo err >&2; {TOLD_TO_GO_ON}; echo last; exit 3"
    detached(root, git_image, "blue", script, "--workspace", "mount")
    bottle = root.bottle
    assert states(bottle) == {"blue": "running"}
    assert "echo out; echo err" in bottle("ls").out
    bottle("run", "--name", "blue", "--image", git_image).failed(101, "running", "bottle stop blue")
    with bottle.start("logs", "-f", "blue") as following:
        assert following.stdout is not None
        first = [following.stdout.readline() for _ in range(2)]
        go_on(root.folder / "repo")
        followed = end(following)
    followed = replace(followed, out="".join(first) + followed.out)
    assert sorted(followed.out.splitlines()) == ["err", "last", "out"]
    wait_until(lambda: states(bottle) == {"blue": "ended"}, pause=0.2)
    assert "exited (3)" in bottle("ls").out
    assert bottle("logs", "blue").out == followed.out
    assert bottle("rm", "blue").out == "blue\n"
    assert states(bottle) == {}
    assert "blue" in bottle("ls", "--all").out
    bottle("logs", "blue").failed(118, "blue")
    root.left_nothing()


def test_a_log_drops_its_oldest_part_at_64_megabytes(root: Caller, git_image: str) -> None:
    lines, digits = 700_000, 112
    zeros = "0" * digits
    detached(root, git_image, "blue", f"seq {lines} | sed s/$/{zeros}/; echo last; sleep 100")
    log = root.folder / "state/bottles/blue/log"
    size = sum(len(f"{number}\n") for number in range(1, lines + 1)) + lines * digits
    wait_until(lambda: log.stat().st_size == size + len("last\n"), 120)
    wait_until(lambda: log.stat().st_blocks * 512 <= 64 << 20)
    read = root.bottle("logs", "blue")
    assert "were dropped" in read.err
    first, *rest, last = read.out.splitlines()
    assert last == "last"
    begun = int(first.removesuffix(zeros))
    assert rest == [f"{number}{zeros}" for number in range(begun + 1, lines + 1)]
    assert root.bottle("stop", "-t", "0", "blue").code == 0
    assert root.bottle("rm", "blue").code == 0
    root.left_nothing()


def test_a_detached_bottle_that_cannot_begin_reports_the_error(root: Caller) -> None:
    repo = root.repo()
    args = ("run", "-d", "--backend", "docker", "--image", "bot-bottle-no-such-image", "--name", "lost")
    root.bottle(*args, cwd=repo.top).failed(103, "bot-bottle-no-such-image")
    assert root.bottle("logs", "lost").out == ""


def test_other_commands_run_in_a_bottle(root: Caller, git_image: str) -> None:
    detached(root, git_image, "blue", "echo up; sleep 100", "-u", "1000", "-e", "OWN=1", "-w", "/home")
    wait_until(lambda: root.bottle("logs", "blue").out == "up\n", pause=0.2)
    script = "id -u; pwd; echo $OWN $SECRET; exit 7"
    told = root.bottle("exec", "-e", "SECRET=a b", "blue", "--", "sh", "-c", script)
    assert (told.code, told.out) == (7, "1000\n/home\n1 a b\n")
    assert root.bottle("exec", "-u", "0", "-w", "/", "blue", "--", "sh", "-c", "id -u; pwd").out == "0\n/\n"
    assert root.bottle("exec", "blue", "--", "no-such-command").code in (126, 127)  # as docker has it
    root.bottle("exec", "blue").failed(2, "no command")
    with pexpect.spawn(str(PROGRAM), ["shell", "blue"], env=root.bottle.env(), timeout=30) as shell:
        shell.sendline("until [ \"$(stty size)\" = '24 80' ]; do sleep 0.1; done; tty; exit 4")
        shell.expect("\r\n/dev/pts/")
        shell.expect(pexpect.EOF)
    assert shell.exitstatus == 4
    assert states(root.bottle) == {"blue": "running"}
    assert root.bottle("stop", "-t", "0", "blue").code == 0
    root.bottle("exec", "blue", "--", "true").failed(101, "not running")
    root.bottle("shell", "nobody").failed(118, "nobody")


def test_stop_lets_a_command_end_in_order_and_kills_one_that_ignores_it(root: Caller, git_image: str) -> None:
    wait = "echo up; while :; do sleep .1; done"
    work = f"trap 'git commit -qam stopped; exit 0' TERM; echo more >> README; {wait}"
    detached(root, git_image, "blue", work, "--workspace", "clone")
    detached(root, git_image, "deaf", f"trap '' TERM; {wait}")
    for name in ("blue", "deaf"):
        wait_until(lambda name=name: root.bottle("logs", name).out == "up\n", pause=0.2)  # type: ignore[misc]
    assert root.bottle("stop", "-t", "2", "blue", "deaf", "blue").out == "blue\ndeaf\nblue\n"
    assert states(root.bottle) == {"blue": "ended", "deaf": "ended"}
    assert root.bottle("show", "blue", "--json").out.count('"exit_status": 0')
    root.left_nothing()
    root.bottle("stop", "nobody").failed(118, "nobody")


def test_prune_removes_ended_bottles_and_no_work(root: Caller, git_image: str) -> None:
    detached(root, git_image, "done", "true")
    detached(root, git_image, "work", "echo x > new; sleep 100", "--workspace", "clone")
    detached(root, git_image, "runs", "sleep 100")
    wait_until(lambda: states(root.bottle)["done"] == "ended", pause=0.2)
    found = {each["name"]: each["pid"] for each in json.loads(root.bottle("ls", "--json").out)}
    wait_until(lambda: bool(list((root.folder / "state/bottles/work/clone/work").glob("new"))))
    os.kill(found["work"], signal.SIGKILL)
    wait_until(lambda: states(root.bottle)["work"] == "killed", pause=0.2)
    told = root.bottle("prune", "--dry-run").out.splitlines()
    assert told[0] == "would remove done"
    assert root.bottle("prune").out.splitlines()[0] == "removed done"
    assert states(root.bottle) == {"work": "killed", "runs": "running"}
    assert "+x" in root.bottle("diff", "work").out
    assert root.bottle("apply", "work").code == 0
    assert root.bottle("prune").out == "removed work\n"
    assert root.bottle("stop", "-t", "0", "runs").code == 0
    assert root.bottle("prune").out == "removed runs\n"
    assert states(root.bottle) == {}
    root.left_nothing()


def test_ctrl_c_while_a_detached_bottle_begins_leaves_nothing(root: Caller, git_image: str) -> None:
    repo = root.repo()
    docker = ("--backend", "docker", "--image", git_image, "--name", "blue")
    started = root.bottle.start("run", "-d", *docker, "--", "sleep", "100", cwd=repo.top)
    wait_until(lambda: started.poll() is not None or list((root.folder / "state").rglob("*blue*")))
    started.send_signal(signal.SIGINT)
    code = end(started).code
    if code == 0:  # it had begun already
        assert root.bottle("stop", "-t", "0", "blue").code == 0
    else:
        assert code in (-signal.SIGINT, 130, 143)  # the first when Python had not begun either
    assert "running" not in states(root.bottle).values()
    root.left_nothing()


def fan(who: Caller, git_image: str, count: int, script: str, *options: str) -> Ended:
    repo = who.folder / "repo"
    repo = repo if repo.exists() else who.repo().top
    docker = ("--backend", "docker", "--image", git_image, "--name", "try", "-m", "256m")
    return who.bottle("fan", str(count), *docker, *options, "--", "sh", "-c", script, cwd=repo, timeout=300)


def test_a_fan_brings_back_the_commits_of_each_agent(root: Caller, git_image: str) -> None:
    ended = fan(root, git_image, 3, AGENT, "--json")
    assert ended.code == 1, ended
    rows = json.loads(ended.out)
    assert [(row["name"], row["exit_status"], row["commits"]) for row in rows] == [
        ("try-1", 0, 1),
        ("try-2", 0, 1),
        ("try-3", 1, 1),
    ]
    assert [row["uncommitted"] for row in rows] == [False, True, False]
    assert [(row["files"], row["added"]) for row in rows] == [(1, 1), (2, 2), (1, 1)]
    repo = Repo(root.folder / "repo")
    for number in "123":
        assert repo.git("show", f"bottle/try-{number}:README").endswith(f"\n{number}")
        assert root.bottle("logs", f"try-{number}").out.startswith(f"working on bottle/try-{number}\n")
    assert root.bottle("apply", "try-2").code == 0
    assert root.bottle("rm", "try-1", "try-2", "try-3").code == 0
    root.left_nothing()


def test_a_fan_of_eight_prints_a_table(root: Caller, git_image: str) -> None:
    ended = fan(root, git_image, 8, "git commit -q --allow-empty -m x")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "COMMITS", "FILES", "LINES", "SECONDS"]
    assert [line.split()[:3] for line in lines[1:]] == [[f"try-{n}", "0", "1"] for n in range(1, 9)]
    assert ended.err.count("start ") == ended.err.count("exit ") == 8
    root.left_nothing()


def test_a_fan_that_does_not_fit_begins_nothing(root: Caller, git_image: str) -> None:
    fan(root, git_image, 3, "true", "-m", "1000g").failed(101, "not enough memory", "--memory")
    fan(root, git_image, 3, "true", "--workspace", "mount").failed(2, "--workspace clone")
    detached(root, git_image, "try-2", "sleep 100")
    fan(root, git_image, 3, "true").failed(101, "try-2 is running")
    assert list(states(root.bottle)) == ["try-2"]


def test_a_fan_reports_a_bottle_that_was_killed(root: Caller, git_image: str) -> None:
    repo = root.repo()
    docker = ("--backend", "docker", "--image", git_image, "--name", "try", "-m", "256m")
    command = ("sh", "-c", TOLD_TO_GO_ON)
    started = root.bottle.start("fan", "2", *docker, "--json", "--", *command, cwd=repo.top)
    wait_until(lambda: list(states(root.bottle).values()).count("running") == 2, pause=0.2)
    (pid,) = [each["pid"] for each in json.loads(root.bottle("ls", "--json").out) if each["name"] == "try-1"]
    os.kill(pid, signal.SIGKILL)
    go_on(root.folder / "state/bottles/try-2/clone/work")
    ended = end(started)
    assert ended.code == 1, ended
    assert [row["exit_status"] for row in json.loads(ended.out)] == [137, 0]
    assert root.bottle("prune").code == 0
    root.left_nothing()


def test_ctrl_c_ends_all_of_a_fan(root: Caller, git_image: str) -> None:
    repo = root.repo()
    docker = ("--backend", "docker", "--image", git_image, "--name", "try", "-m", "256m")
    deaf = ("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done")
    started = root.bottle.start("fan", "3", *docker, "--", *deaf, cwd=repo.top)
    wait_until(lambda: list(states(root.bottle).values()).count("running") == 3, pause=0.2)
    for name in ("try-1", "try-2", "try-3"):
        wait_until(lambda name=name: "deaf" in root.bottle("logs", name).out, pause=0.2)  # type: ignore[misc]
    started.send_signal(signal.SIGINT)
    assert end(started).code == 130
    assert set(states(root.bottle).values()) == {"ended"}
    root.left_nothing()


@pytest.mark.one_client
@pytest.mark.one_store
@pytest.mark.parametrize(
    "times", [pytest.param(3, marks=pytest.mark.own), pytest.param(20, marks=pytest.mark.slow)]
)
def test_bottles_killed_at_any_moment_leave_nothing_and_lose_no_commit(
    containers: Docker | Podman, engine_case: Case, tmp_path: Path, times: int
) -> None:
    image = containers.build(git_context(tmp_path))
    with caller(0, containers) as who:
        options = ("--backend", "docker", "--engine", engine_case.kind, "--image", image)
        killed_at_any_moment(who, times, 3.0, *options)
