"""Fans on a Ray cluster of a head without an engine and three nodes, each with an engine of its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.bottle import Bottle, end, wait_until
from tests.support.callers import Caller, caller
from tests.support.engines import Docker, private_docker
from tests.support.ray_nodes import Nodes, nodes

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
    with caller(0, docker) as who:
        bottle = Bottle(who.bottle.cache, {**who.bottle.changes, **cluster.auth}, prefix=cluster.prefix)
        yield Caller(who.uid, who.folder, bottle)
        bottle.kill_started()


def options(cluster: Nodes, image: str, *more: str) -> list[str]:
    docker = ("--backend", "docker", "--image", image, "--name", "try", "-m", "256m")
    return ["--on", cluster.address, *docker, *more]


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


def test_a_fan_goes_on_when_a_node_is_killed(root: Caller, cluster: Nodes, git_image: str) -> None:
    repo = root.repo()
    argv = ("fan", "8", *options(cluster, git_image, "--json"), "--", "sh", "-c", HOLD)
    fan = Following(root.bottle.start(*argv, cwd=repo.top))
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
    for name, node in where.items():
        if node != "b":
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
    left_nothing(root, cluster)
    cluster.restart("b")


def left_nothing(root: Caller, cluster: Nodes) -> None:
    wait_until(lambda: not cluster.runs(), 60, pause=0.2)
    assert cluster.leftovers() == []
    root.left_nothing()
