"""Bottles on a Ray cluster of one node, which shares nothing with the caller but the container engine."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.support.bottle import Bottle, Ended, end, wait_until
from tests.support.callers import AGENT, Caller, caller
from tests.support.engines import Docker
from tests.support.ray_cluster import ADDRESS, Cluster, one_node
from tests.support.repos import Repo


@pytest.fixture(scope="module")
def cluster(docker: Docker) -> Iterator[Cluster]:
    with one_node(docker.variables) as made:
        yield made


@pytest.fixture
def root(docker: Docker, cluster: Cluster) -> Iterator[Caller]:
    with caller(0, docker) as who:
        bottle = Bottle(who.bottle.cache, {**who.bottle.changes, **cluster.variables})
        yield Caller(who.uid, who.folder, bottle)


def argv(git_image: str, count: int, script: str, *options: str, on: str = "ray") -> list[str]:
    docker = ("--backend", "docker", "--image", git_image, "--name", "try", "-m", "256m")
    return ["fan", str(count), "--on", on, *docker, *options, "--", "sh", "-c", script]


def fan(who: Caller, git_image: str, count: int, script: str, *options: str, on: str = "ray") -> Ended:
    repo = who.folder / "repo"
    repo = repo if repo.exists() else who.repo().top
    return who.bottle(*argv(git_image, count, script, *options, on=on), cwd=repo, timeout=300)


def left_nothing(who: Caller, cluster: Cluster) -> None:
    who.left_nothing()
    assert cluster.node.scraps() == []
    wait_until(lambda: not cluster.processes(), 60, pause=0.2)


def test_work_comes_back_from_a_node_as_from_a_bottle_here(
    root: Caller, cluster: Cluster, git_image: str
) -> None:
    ended = fan(root, git_image, 3, AGENT, "--json")
    assert ended.code == 1, ended
    rows = json.loads(ended.out)
    assert [(row["name"], row["exit_status"], row["commits"], row["uncommitted"]) for row in rows] == [
        ("try-1", 0, 1, False),
        ("try-2", 0, 1, True),
        ("try-3", 1, 1, False),
    ]
    assert {tuple(row["nodes"]) for row in rows} == {(ADDRESS,)}
    assert "try-1 | working on bottle/try-1" in ended.err.splitlines()
    repo = Repo(root.folder / "repo")
    for number in "123":
        assert repo.git("show", f"bottle/try-{number}:README").endswith(f"\n{number}")
        assert root.bottle("logs", f"try-{number}").out.startswith(f"working on bottle/try-{number}\n")
    shown = json.loads(root.bottle("show", "--json", "try-2").out)
    assert (shown["node"], shown["git"]["branch"]) == (ADDRESS, "bottle/try-2")
    assert root.bottle("diff", "try-2").out.count("diff --git") == 2
    assert root.bottle("apply", "try-2").code == 0
    assert (repo.top / "uncommitted").read_text() == "more\n"
    assert root.bottle("rm", "try-1", "try-2", "try-3").code == 0
    left_nothing(root, cluster)


def test_the_table_has_the_node(root: Caller, cluster: Cluster, git_image: str) -> None:
    ended = fan(root, git_image, 2, "true", on=cluster.client)
    assert ended.code == 0, ended
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == ["NAME", "STATUS", "COMMITS", "FILES", "LINES", "SECONDS", "NODE"]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [
        ("try-1", "0", ADDRESS),
        ("try-2", "0", ADDRESS),
    ]
    left_nothing(root, cluster)


def test_ctrl_c_ends_what_runs_and_what_waits(root: Caller, cluster: Cluster, git_image: str) -> None:
    repo = root.repo()
    script = "git commit -q --allow-empty -m x; echo begun; exec sleep 1000"
    with root.bottle.start(*argv(git_image, 3, script, "--cpus", "2"), cwd=repo.top) as started:
        assert started.stderr is not None
        begun = 0
        while begun < 2:  # the third waits for processors
            begun += "| begun" in started.stderr.readline()
        started.send_signal(signal.SIGINT)
        ended = end(started)
    assert ended.code == 130, ended
    assert len(repo.refs("refs/heads/bottle")) == 2  # what was committed has come back
    left_nothing(root, cluster)
