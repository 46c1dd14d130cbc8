"""Bottles on a Ray cluster of one node, which shares nothing with the caller but the container engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.bottle import Bottle, Ended, end, wait_until
from tests.support.callers import AGENT, Caller, caller
from tests.support.engines import Docker
from tests.support.npm_registry import archive, fake_registry
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


def until_begun(started: subprocess.Popen[str], count: int) -> None:
    """Read a fan's output until so many bottles have begun."""
    assert started.stderr is not None
    lines = []
    while count:
        lines.append(started.stderr.readline())
        assert lines[-1], lines  # it has ended
        count -= "| begun" in lines[-1]


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


def test_ctrl_c_ends_what_runs_and_what_waits(root: Caller, cluster: Cluster, git_image: str) -> None:
    repo = root.repo()
    script = "git commit -q --allow-empty -m x; echo begun; exec sleep 1000"
    with root.bottle.start(*argv(git_image, 3, script, "--cpus", "2"), cwd=repo.top) as started:
        until_begun(started, 2)  # the third waits for processors
        started.send_signal(signal.SIGINT)
        ended = end(started)
    assert ended.code == 130, ended
    assert len(repo.refs("refs/heads/bottle")) == 2  # what was committed has come back
    left_nothing(root, cluster)


@pytest.mark.slow
def test_a_fan_is_found_again_when_its_caller_has_gone(
    root: Caller, cluster: Cluster, git_image: str
) -> None:
    repo = root.repo()
    script = "git commit -q --allow-empty -m x; echo begun; exec sleep 1000"
    with root.bottle.start(*argv(git_image, 2, script), cwd=repo.top) as started:
        until_begun(started, 2)
        started.kill()
    bottle = root.bottle
    rows = json.loads(bottle("ls", "--on", "ray", "--json").out)
    assert [(row["fan"], row["name"], row["state"]) for row in rows] == [
        ("try", "try-1", "running"),
        ("try", "try-2", "running"),
    ]
    assert bottle("logs", "--on", "ray", "try-2").out == "try-2 | begun\n"
    bottle("logs", "--on", "ray", "other").failed(118, "no fan or bottle named other", "bottle ls --on ray")
    fan(root, git_image, 2, "true").failed(
        99, "a fan named try is on the cluster already", "bottle stop --on"
    )
    assert bottle("stop", "--on", "ray", "try").line == "try"
    assert repo.refs("refs/heads/bottle") == ["refs/heads/bottle/try-1", "refs/heads/bottle/try-2"]
    assert bottle("ls", "--on", "ray", "--json").out == "[]\n"
    bottle("prune")
    left_nothing(root, cluster)


@pytest.mark.slow
def test_a_bottle_whose_worker_is_killed_is_run_again(root: Caller, cluster: Cluster, git_image: str) -> None:
    repo = root.repo()
    script = "git commit -q --allow-empty -m x; echo begun; exec sleep 1000"
    with root.bottle.start(*argv(git_image, 1, script, "--retries", "1", "--json"), cwd=repo.top) as started:
        for _ in range(2):
            until_begun(started, 1)
            wait_until(lambda: "try-1" in str(cluster.processes()), pause=0.2)
            (worker,) = (pid for pid, title in cluster.processes().items() if "try-1" in title)
            os.kill(worker, signal.SIGKILL)
        ended = end(started)
    assert ended.code == 1, ended
    (row,) = json.loads(ended.out)
    assert (row["exit_status"], row["nodes"]) == (99, [ADDRESS, ADDRESS])
    assert "its node died, 2 times" in row["error"]
    wait_until(lambda: "attempt" not in str(cluster.processes()), 60, pause=0.5)
    assert cluster.node("prune").code == 0
    left_nothing(root, cluster)


@pytest.mark.slow
def test_secrets_are_the_nodes_unless_they_are_sent(root: Caller, cluster: Cluster, git_image: str) -> None:
    root.repo()
    (root.folder / "key").write_text("a-value-of-the-caller\n")
    script = 'test "$KEY" = a-value-of-the-caller && test "$OTHER" = "a b"'
    secret = ("--secret", f"id=KEY,src={root.folder}/key", "--env", "OTHER=a b")
    sent = fan(root, git_image, 1, script, *secret, "--send-secrets", "--json")
    assert sent.code == 0, sent
    (root.folder / "key").unlink()
    (cluster.folder / "key").write_text("a-value-of-the-node\n")
    own = ("--name", "own", "--secret", "id=KEY,src=~/key")
    ended = fan(root, git_image, 1, 'test "$KEY" = a-value-of-the-node', *own)
    assert ended.code == 0, ended
    heads, row = (line.split() for line in ended.out.splitlines())
    assert heads == ["NAME", "STATUS", "COMMITS", "FILES", "LINES", "SECONDS", "NODE"]
    assert (row[0], row[1], row[-1]) == ("own-1", "0", ADDRESS)
    missing = fan(root, git_image, 1, "true", "--name", "no", "--secret", "id=KEY,src=~/other", "--json")
    assert missing.code == 1, missing
    assert "no-1 was refused by every node: the secret KEY cannot be read" in missing.err
    left_nothing(root, cluster)
    seen = subprocess.run(["grep", "-rlF", "a-value-of-the-", cluster.folder / "r"], capture_output=True)
    assert seen.stdout == b""


@pytest.mark.slow
def test_work_that_is_too_large_does_not_come_back(root: Caller, cluster: Cluster, git_image: str) -> None:
    script = """
    [ "$(git branch --show-current)" = bottle/try-1 ] && head -c 3000000 /dev/urandom > noise
    git add -A && git commit -q --allow-empty -m work
    """
    ended = fan(root, git_image, 2, script, "--max-work", "2MB", "--json")
    assert ended.code == 1, ended
    large, small = json.loads(ended.out)
    assert (large["exit_status"], large["commits"], len(large["nodes"])) == (116, 0, 1)
    assert "the commits of try-1 are too large" in large["error"]
    assert "the work of try-1 was not taken" in ended.err
    assert "--max-work" in ended.err
    assert (small["exit_status"], small["commits"]) == (0, 1)
    assert Repo(root.folder / "repo").refs("refs/heads/bottle") == ["refs/heads/bottle/try-2"]
    left_nothing(root, cluster)


PROFILE = """
version = "1.0.0"
release = "mine"
command = []
headless = ["{prompt}"]
state = [".history"]
[[packages]]
name = "mine"
program = ["agent"]
integrity = "HASH"
"""
REMEMBERS = b"""#!/bin/sh
cat "$HOME/.history/one" 2>/dev/null || echo nothing
mkdir -p "$HOME/.history"
echo "$1" >> "$HOME/.history/one"
"""


@pytest.mark.slow
def test_an_agents_state_goes_to_nodes_and_comes_back(root: Caller, cluster: Cluster, git_image: str) -> None:
    repo = root.repo()
    agents = root.folder / "config" / "bot-bottle" / "agents"
    agents.mkdir(parents=True)
    with fake_registry() as registry:
        found = registry.add("mine", "1.0.0", archive({"agent": REMEMBERS}))
        (agents / "mine.toml").write_text(PROFILE.replace("HASH", found))
        env = {
            "XDG_CONFIG_HOME": str(root.folder / "config"),
            "npm_config_registry": registry.url,
            "npm_config_userconfig": str(root.folder / "npmrc"),
        }

        def said(prompt: str, *options: str) -> list[str]:
            image = ("--backend", "docker", "--image", git_image, "--user", "1000", "-m", "256m")
            argv = ("fan", "2", "--on", "ray", *image, "--name", prompt, "--agent", "mine", "-p", prompt)
            ended = root.bottle(*argv, *options, cwd=repo.top, env=env)
            assert ended.code == 0, ended
            return sorted(line for line in ended.err.splitlines() if " | " in line)

        assert said("first") == ["first-1 | nothing", "first-2 | nothing"]
        assert said("again") == ["again-1 | first", "again-2 | first"]
        assert said("none", "--no-state") == ["none-1 | nothing", "none-2 | nothing"]
        third = said("third")
    assert third == ["third-1 | again", "third-1 | first", "third-2 | again", "third-2 | first"]
    assert root.bottle("rm", "--state", "--agent", "mine", cwd=repo.top).line == "mine"
    left_nothing(root, cluster)


def test_what_is_about_this_machine_is_refused(root: Caller, cluster: Cluster, git_image: str) -> None:
    fan(root, git_image, 1, "true", "-p", "8000").failed(2, "--publish does not work with --on")
    fan(root, git_image, 1, "true", "--cpus", "64").failed(99, "no node", "large enough", "--cpus")
    fan(root, git_image, 1, "true", on="ray://127.0.0.1:1").failed(99, "no cluster answers", "10001")
    gone = {"RAY_ADDRESS": "127.0.0.9:1"}
    root.bottle("ls", "--on", "ray", env=gone).failed(99, "does not answer at 127.0.0.9:1", "RAY_ADDRESS")
    proxied = {"http_proxy": "http://127.0.0.9:1", "no_proxy": None}
    assert root.bottle("ls", "--on", "ray", "--json", env=proxied).out == "[]\n"
    (root.folder / "wrong").write_text("0" * 32)
    wrong = {"RAY_AUTH_TOKEN_PATH": str(root.folder / "wrong")}
    refused = root.bottle("ls", "--on", "ray", env=wrong)
    refused.failed(99, "cannot connect to the cluster on this machine", "RAY_AUTH_TOKEN_PATH")
    assert refused.err.startswith("bottle: "), refused.err
    fan(root, git_image, 1, "true", on="here").failed(2, "not the address of a cluster", "ray://HOST:10001")
    virtual = ("fan", "1", "--on", "ray", "--image", git_image, "--", "true")
    root.bottle(*virtual, cwd=root.folder / "repo").failed(99, "no node", "kvm or emulated", "container")
    left_nothing(root, cluster)


@pytest.mark.slow
def test_a_client_elsewhere_needs_the_token(root: Caller, cluster: Cluster, git_image: str) -> None:
    """Ray's client server starts a server for each client, and waits for half a minute for a wrong token."""
    ended = fan(root, git_image, 2, AGENT, on=cluster.client)
    assert ended.code == 0, ended
    assert len(Repo(root.folder / "repo").refs("refs/heads/bottle")) == 2
    wrong = root.folder / "wrong"
    wrong.write_text("0" * 32)
    other = Bottle(root.bottle.cache, {**root.bottle.changes, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    other("ls", "--on", cluster.client).failed(99, "cannot connect", "RAY_AUTH_TOKEN_PATH")
    left_nothing(root, cluster)


CONNECTED = """
import sys, ray
from ray.util.client import ray as client
ray.init(sys.argv[1])
print(client.get_context().client_worker.connection_info()["num_clients"])
"""


def connected(cluster: Cluster) -> int:
    """Return how many callers the cluster's client server has, and one is this."""
    argv = [sys.executable, "-c", CONNECTED, cluster.client]
    env = {**os.environ, **cluster.variables}
    return int(subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_a_connection_is_closed_when_there_is_nothing_to_run_or_nobody_waits(
    root: Caller, cluster: Cluster, git_image: str
) -> None:
    """The order is made while Ray connects."""
    repo = root.repo()
    command = argv(git_image, 1, "true", on=cluster.client)
    no_engine = {"DOCKER_HOST": f"unix://{root.folder}/nobody"}
    root.bottle(*command, cwd=repo.top, env=no_engine).failed(103, "docker does not answer", "nobody")
    assert connected(cluster) == 1

    def servers() -> int:
        return str(cluster.node.processes()).count("mode=specific-server")

    before = servers()
    with root.bottle.start(*command, cwd=repo.top) as started:
        wait_until(lambda: servers() > before)
        started.send_signal(signal.SIGINT)
        ended = end(started)
    assert ended.code == 130, ended
    assert connected(cluster) == 1
    left_nothing(root, cluster)
