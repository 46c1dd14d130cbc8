"""git in a container fetches from a remote and pushes to it, with nothing to configure and no credential."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bottle import Ended
from tests.support.callers import Caller, caller
from tests.support.engines import Docker
from tests.support.git_world import git_client_context
from tests.support.repos import Repo

NAMED = ("--workspace", "clone", "--name", "ship")
GIT = "git config --global --add safe.directory '*'; set -e; "
PUSH = f"""{GIT} echo work > new && head -c 3000000 /dev/urandom > large && git add new large
git commit -q -m work && git push origin HEAD
"""
LOOK = f"""{GIT}
git fetch -q origin && git log --format=%s origin/main -1 && git remote -v
git commit -q --allow-empty -m more
git push origin HEAD:main && exit 1
git push origin HEAD:refs/tags/v9 && exit 1
git ls-remote http://git.bottle/other && exit 1
printf 'GET http://host.bottle/ HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 3128 | head -1
printf 'GET http://git.bottle:81/ HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 3128 | head -1
exit 0
"""


@pytest.fixture(scope="module")
def image(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> str:
    return docker.build(git_client_context(tmp_path_factory.mktemp("git-client")))


@pytest.fixture(params=[pytest.param(0, marks=pytest.mark.slow), 12345], ids=["root", "ordinary"])
def who(docker: Docker, request: pytest.FixtureRequest) -> Iterator[Caller]:
    with caller(request.param, docker) as made:
        yield made
        made.left_nothing()


@pytest.fixture
def remote(who: Caller) -> Repo:
    """A bare repository of the caller's, which is the remote of their own."""
    repo = who.repo()
    bare = Repo(who.folder / "remote.git", who.uid)
    subprocess.run(["git", "clone", "-q", "--bare", repo.top, bare.top], user=who.uid, check=True)
    repo.git("remote", "add", "origin", str(bare.top))
    return bare


def run(who: Caller, image: str, script: str, *options: str | Path) -> Ended:
    """Run a script in a bottle of the caller's repository, which may push to its remote."""
    docker = ("--backend", "docker", "--image", image, "-u", "1000")
    return who.run(Repo(who.folder / "repo"), *docker, *options, "--", "sh", "-c", script)


def test_a_clone_pushes_to_its_remote(who: Caller, remote: Repo, image: str) -> None:
    ended = run(who, image, PUSH, *NAMED, "--git-push", "origin")
    assert ended.code == 0, ended
    assert f"remote: bottle: bottle/ship: pushed to {remote.top}" in ended.err
    assert remote.shows("bottle/ship", "new") == "work"
    repo = Repo(who.folder / "repo", who.uid)
    assert repo.git("rev-parse", "bottle/ship") == remote.git("rev-parse", "bottle/ship")
    shown = json.loads(who.bottle("show", "--json").out)
    assert shown["plan"]["git"]["push"] == {"origin": str(remote.top)}
    assert shown["plan"]["network"] == "git remotes"
    [pushed] = shown["git"]["pushes"]
    assert (pushed["branch"], pushed["verdict"]) == ("bottle/ship", "pushed")
    assert pushed["new"] == remote.git("rev-parse", "bottle/ship")


def test_what_is_fetched_is_the_remote_as_it_is_and_nothing_else_is_there(
    who: Caller, remote: Repo, image: str
) -> None:
    before = remote.refs()
    ended = run(who, image, LOOK, *NAMED, "--git-push", "origin")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[0] == "work"
    assert lines[1:3] == [f"origin\thttp://git.bottle/origin ({way})" for way in ("fetch", "push")]
    assert [line.split()[1] for line in lines[3:]] == ["403", "403"]
    assert "main: this branch is not allowed" in ended.err
    assert "only branches can be pushed" in ended.err
    assert remote.refs() == before


def test_held_pushes_are_pushed_on_after_the_bottle_has_ended(who: Caller, remote: Repo, image: str) -> None:
    repo = Repo(who.folder / "repo", who.uid)
    (repo.top / "bottle.toml").write_text('[git]\npush = ["origin"]\nhold = true\n')
    refused = run(who, image, PUSH, *NAMED)
    assert refused.code == 120, refused
    assert f"fetch from and push to the remote origin ({remote.top})" in refused.err
    ended = run(who, image, PUSH, *NAMED, "--yes")
    assert ended.code == 0, ended
    assert "held for the user" in ended.err
    assert remote.refs("refs/heads/bottle") == []
    assert who.bottle("rm", "ship").code != 0
    assert "bottle/ship" in who.bottle("forward", "--dry-run", "ship").out
    assert who.bottle("forward", "ship").out.startswith("origin bottle/ship ")
    assert remote.shows("bottle/ship", "new") == "work"
    assert not (who.folder / "state/bottles/ship/held").exists()


def test_another_remote_cannot_be_reached_and_a_network_that_has_no_proxy_is_refused(
    who: Caller, remote: Repo, image: str
) -> None:
    del remote
    missing = run(who, image, PUSH, *NAMED, "--git-push", "upstream")
    assert (missing.code, "has no remote upstream" in missing.err) == (101, True), missing
    opened = run(who, image, PUSH, *NAMED, "--git-push", "origin", "--network", "open")
    assert (opened.code, "needs the proxy" in opened.err) == (101, True), opened
    assert not Path(who.folder / "state/bottles/ship").exists()
