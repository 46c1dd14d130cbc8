"""MicroVMs on the nodes of a Ray cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.bottle import Bottle
from tests.support.callers import AGENT, caller
from tests.support.engines import Docker
from tests.support.ray_cluster import one_node


@pytest.mark.timeout(900)
def test_two_microvms_work_on_a_node_and_their_work_comes_back(
    docker: Docker, git_image: str, shared_cache: Path
) -> None:
    with (
        one_node({"DOCKER_HOST": "unix:///nonexistent"}, '{"emulated": 2}') as cluster,
        caller(0, docker, cache=shared_cache) as who,
    ):
        repo = who.repo()
        bottle = Bottle(who.bottle.cache, {**who.bottle.changes, **cluster.variables})
        direct = ("--on", cluster.client, "--accel", "direct", "-m", "512m", "--image", git_image)
        argv = ("fan", "2", *direct, "--name", "try", "--json", "--", "sh", "-c", AGENT)
        ended = bottle(*argv, cwd=repo.top, timeout=800)
        assert ended.code == 0, ended
        rows = json.loads(ended.out)
        assert [(row["exit_status"], row["commits"], len(row["nodes"])) for row in rows] == [(0, 1, 1)] * 2
        for number in "12":
            assert repo.git("show", f"bottle/try-{number}:README").endswith(f"\n{number}")
        [here], [there] = bottle.artifacts, cluster.node.artifacts
        assert (here.name, here.read_bytes()) == (there.name, there.read_bytes())
        assert cluster.node.scraps() == []
        assert bottle.leftovers == []
