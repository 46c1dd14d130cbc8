"""Fans on a Ray cluster of a head without an engine and three nodes, each with an engine of its own."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import fake_engines
from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import Caller, caller
from tests.support.canary import Canary, holders
from tests.support.engines import Docker, private_docker
from tests.support.ray_nodes import HEAD, PORT, Node, Nodes, nodes

# commits, and goes on until it may end
HOLD = """
git commit -q --allow-empty -m "from $(hostname)" && echo begun
until [ -e /tmp/go ]; do sleep 0.1; done
git commit -q --allow-empty -m "again" && echo over
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(private_docker(copy=f"node{name}")).variables
            for name in ("a", "b", "c")
        }
        yield stack.enter_context(nodes(engines))


@pytest.fixture
def root(docker: Docker, cluster: Nodes) -> Iterator[Caller]:
    """Somebody on another machine."""
    with caller(0, docker) as who:
        bottle = Bottle(who.bottle.cache, {**who.bottle.changes, **cluster.auth}, prefix=cluster.prefix)
        yield Caller(who.uid, who.folder, bottle)
        bottle.kill_started()


@pytest.fixture
def at_head(root: Caller, cluster: Nodes) -> Caller:
    """Somebody on the head, who needs no server of Ray's for clients."""
    head = cluster[HEAD]
    changes = {**root.bottle.changes, "RAY_ADDRESS": f"{head.address}:{PORT}"}
    return replace(root, bottle=replace(root.bottle, changes=changes, prefix=head.prefix))


def fan_argv(image: str, count: int, *more: str, on: str = "ray") -> list[str]:
    docker = ("--backend", "docker", "--image", image, "--name", "try", "-m", "256m")
    return ["fan", str(count), "--on", on, *docker, *more]


def placed(cluster: Nodes) -> dict[str, str]:
    """The node of each bottle that runs."""
    return {each: node.name for node in cluster.workers for each in node.bottles()}


def release(cluster: Nodes, name: str) -> None:
    """Let a bottle go on; where its node was killed, its container may still be there."""
    [node] = [each for each in cluster.workers if each.started and name in each.bottles()]
    node.docker("exec", node.bottles()[name], "touch", "/tmp/go")


class Following:
    """A fan's output as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def until(self, pattern: str) -> str:
        """Read on to a line that matches, and return the bottle that it is about; "" at the end."""
        assert self.process.stderr
        while line := self.process.stderr.readline():
            self.lines.append(line)
            if found := re.match(pattern, line):
                return found[1]
        return ""


BEGUN, EXIT = r"(\S+) \| begun$", r"exit +(\S+): status"


def test_a_fan_goes_on_when_a_node_is_killed(at_head: Caller, cluster: Nodes, git_image: str) -> None:
    repo = at_head.repo()
    argv = fan_argv(git_image, 8, "--json", "--", "sh", "-c", HOLD)
    fan = Following(at_head.bottle.start(*argv, cwd=repo.top))
    begun = {fan.until(BEGUN) for _ in range(6)}  # two on each node; two wait
    where = placed(cluster)
    assert set(where) == begun, fan.lines
    assert sorted(where.values()) == ["a", "a", "b", "b", "c", "c"]  # none on the head, which has no engine
    for node in cluster.workers:
        images = node.docker("inspect", "--format", "{{.Image}}", *node.bottles().values())
        assert set(images.split()) == {git_image}
    finished, lost = (name for name, node in where.items() if node == "b")
    release(cluster, finished)
    assert fan.until(EXIT) == finished
    cluster["b"].kill()
    for name in begun - {finished, lost}:
        release(cluster, name)
    while name := fan.until(BEGUN):
        release(cluster, name)
    ended = end(fan.process)
    assert ended.code == 0, (ended, fan.lines)
    rows = {row["name"]: row for row in json.loads(ended.out)}
    assert [(row["exit_status"], row["commits"]) for row in rows.values()] == [(0, 2)] * 8
    names = {node.address: node.name for node in cluster.nodes.values()}
    ran = {name: [names[address] for address in row["nodes"]] for name, row in rows.items()}
    assert ran[finished] == ["b"]
    assert len(ran[lost]) == 2
    assert [name for name, all_nodes in ran.items() if all_nodes[-1] == "b"] == [finished]
    for name, all_nodes in ran.items():
        assert repo.git("log", "-1", "--format=%s", f"bottle/{name}") == "again"
        assert repo.git("log", "-1", "--format=%s", f"bottle/{name}^") == f"from {name}", all_nodes
    assert cluster["b"].bottle("prune").code == 0
    left_nothing(at_head, cluster)
    cluster.restart("b")


def left_nothing(root: Caller, cluster: Nodes) -> None:
    wait_until(lambda: not cluster.runs(), 60, pause=0.2)
    assert cluster.leftovers() == []
    root.left_nothing()


def test_who_has_not_the_token_is_refused(root: Caller, cluster: Nodes) -> None:
    wrong = cluster.folder / "wrong"
    wrong.write_text("f" * 32)
    ended = root.bottle("ls", "--on", cluster.address, env={"RAY_AUTH_TOKEN_PATH": str(wrong)})
    ended.failed(99, "cannot connect", "RAY_AUTH_TOKEN_PATH", "authentication token")


@pytest.mark.slow
def test_a_secret_is_nowhere_in_ray(root: Caller, cluster: Nodes, git_image: str, canary: Canary) -> None:
    repo = root.repo()
    secret = ("--secret", f"id=KEY,src={canary.path}")
    held = (*secret, "-e", "SAME", "--", "sh", "-c", f'[ "$KEY" = "$SAME" ]\n{HOLD}')
    env = {"SAME": canary.path.read_text()[:-1]}
    refused = root.bottle(
        *fan_argv(git_image, 1, "--send-secrets", *held, on=cluster.address), cwd=repo.top, env=env
    )
    refused.failed(99, "--send-secrets needs a cluster with TLS")
    caller_of_it = root.bottle.start(
        *fan_argv(git_image, 3, *held, on=cluster.address), cwd=repo.top, env=env
    )
    fan = Following(caller_of_it)
    begun = [fan.until(BEGUN) for _ in range(3)]
    nodes = list(cluster.nodes.values())
    assert [each for node in nodes for each in node.memory_with(canary.value)] == []
    theirs = {f"/proc/{pid}" for node in nodes for pid in node.pids()}
    assert [each for each in holders(canary.value) if each.rpartition("/")[0] in theirs] == []
    for name in begun:
        release(cluster, name)
    ended = end(caller_of_it)
    assert ended.code == 0, ended
    assert canary.places(*(node.folder for node in nodes), root.folder) == []
    left_nothing(root, cluster)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_nodes_killed_at_any_moment_lose_no_commit(root: Caller, cluster: Nodes, git_image: str) -> None:
    repo = root.repo()
    script = "for n in 1 2 3 4 5; do git commit -q --allow-empty -m $n; echo $n; sleep 0.3; done"
    for number in range(20):
        own = ("--json", "--retries", "9", "--name", f"round-{number}")
        argv = fan_argv(git_image, 6, *own, "--", "sh", "-c", script, on=cluster.address)
        fan = root.bottle.start(*argv, cwd=repo.top)
        following = Following(fan)
        following.until("(start) +6 bottles")
        victim = cluster[random.choice("abc")]  # noqa: S311
        moment = random.randint(0, 25)  # noqa: S311
        for _ in range(moment):
            following.until(r"(\S+) \| \d$")
        victim.kill()
        cluster.restart(victim.name)
        ended = end(fan, 200)
        about = (f"round {number}: {victim.name} killed after {moment} commits", following.lines, ended)
        assert ended.code == 0, about
        rows = json.loads(ended.out)
        assert [(row["exit_status"], row["commits"]) for row in rows] == [(0, 5)] * 6, about
        for row in rows:
            assert repo.git("log", "-1", "--format=%s", f"bottle/{row['name']}") == "5", about
        for node in cluster.workers:  # Ray may have given up one that was too slow to answer
            assert node.bottle("prune").code == 0
        left_nothing(root, cluster)
        again = sum(len(row["nodes"]) - 1 for row in rows)
        print(f"{about[0]}: {again} bottles ran again")  # noqa: T201 - for `pytest -s`


@contextmanager
def without_a_key(node: Node) -> Iterator[str]:
    key = node.folder / "key"
    key.rename(key.with_name("away"))
    yield "the secret KEY cannot be read"
    key.with_name("away").rename(key)


@contextmanager
def without_an_answer(node: Node) -> Iterator[str]:
    socket = Path(str(node.engine["DOCKER_HOST"]).removeprefix("unix://"))
    away = socket.with_name("away")
    socket.rename(away)
    yield "the docker daemon"
    away.rename(socket)


@contextmanager
def without_walls(node: Node) -> Iterator[str]:
    real = shutil.which("docker", path=node.engine.get("PATH") or os.environ["PATH"])
    assert real
    fake_engines.dropping_network(node.programs, Path(real), lies=True)
    yield "not in force"
    (node.programs / "docker").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [without_a_key, without_an_answer, without_walls])
def test_what_a_node_cannot_run_runs_on_another(
    at_head: Caller, cluster: Nodes, git_image: str, fault: Callable[[Node], AbstractContextManager[str]]
) -> None:
    repo = at_head.repo()
    for node in cluster.workers:
        (node.folder / "key").write_text("of the node\n")
    script = 'echo started && git commit -q --allow-empty -m "$KEY"'
    more = ("--json", "--secret", "id=KEY,src=~/key", "--", "sh", "-c", script)
    with fault(cluster["b"]):
        ended = at_head.bottle(*fan_argv(git_image, 6, *more), cwd=repo.top)
    assert ended.code == 0, ended
    rows = json.loads(ended.out)
    assert [(row["exit_status"], row["commits"]) for row in rows] == [(0, 1)] * 6
    names = {node.address: node.name for node in cluster.nodes.values()}
    ran = [[names[address] for address in row["nodes"]] for row in rows]
    assert any("b" in nodes for nodes in ran), ran
    assert not any(nodes[-1] == "b" or nodes.count("b") > 1 for nodes in ran), ran
    assert ended.err.count("| started") == 6
    with ExitStack() as stack:
        [why] = {stack.enter_context(fault(node)) for node in cluster.workers}
        ended = at_head.bottle(*fan_argv(git_image, 1, "--name", "no", *more), cwd=repo.top)
    assert ended.code == 1, ended
    [row] = json.loads(ended.out)
    assert sorted(names[address] for address in row["nodes"]) == ["a", "b", "c"]
    assert "no-1 was refused by every node" in ended.err
    assert why in row["error"]
    assert "| started" not in ended.err
    left_nothing(at_head, cluster)


def hold(who: Caller, cluster: Nodes, git_image: str, name: str) -> Following:
    """Start a fan that has one bottle on each node, and wait until these have begun."""
    argv = fan_argv(git_image, 3, "--name", name, "--cpus", "2", "--", "sh", "-c", HOLD)
    fan = Following(who.bottle.start(*argv, cwd=who.folder / "repo"))
    begun = {fan.until(BEGUN) for _ in range(3)}
    assert begun == {f"{name}-{number}" for number in (1, 2, 3)}, fan.lines
    assert sorted(placed(cluster).values()) == ["a", "b", "c"]
    return fan


@pytest.mark.slow
def test_what_a_killed_fan_leaves_on_nodes_goes_with_the_next(
    at_head: Caller, cluster: Nodes, git_image: str
) -> None:
    at_head.repo()
    fan = hold(at_head, cluster, git_image, "lost")
    [actor] = cluster[HEAD].pids("ray::Fan")
    os.kill(actor, signal.SIGKILL)
    ended = end(fan.process)
    assert ended.code == 99, (ended, fan.lines)
    wait_until(lambda: not cluster.runs(), 60, pause=0.2)
    lost = {image for node in cluster.workers for image in node.images()}
    assert len(lost) == 1
    for node in cluster.workers:
        assert node.bottle("prune").code == 0
        assert set(node.images()) == lost  # for all that the node knows, it is in use
    fan = hold(at_head, cluster, git_image, "next")
    assert not lost & {image for node in cluster.workers for image in node.images()}
    for name in placed(cluster):
        release(cluster, name)
    assert end(fan.process).code == 0
    left_nothing(at_head, cluster)


@pytest.mark.slow
def test_without_a_head_nodes_stop_their_bottles_and_keep_nothing(
    at_head: Caller, cluster: Nodes, git_image: str
) -> None:
    """The last one: the cluster is gone then."""
    at_head.repo()
    fan = hold(at_head, cluster, git_image, "headless")
    cluster[HEAD].kill()
    ended = end(fan.process)
    assert ended.code == 99, (ended, fan.lines)
    # Ray itself gives up after a minute
    wait_until(lambda: not any(node.pids() for node in cluster.workers), 120, pause=0.5)
    for node in cluster.nodes.values():
        assert node.bottle("prune").code == 0
    assert cluster.leftovers() == []
