"""Remotes by their URLs, and the user's own credentials, which are used outside of the bottle only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.forge import TOKEN, USER, forge
from tests.support.git_world import cloned, git_world, make_remote
from tests.support.repos import Repo, make_repo

from bot_bottle.errors import SpecError
from bot_bottle.git.remotes import Remote, find_remotes, variables
from bot_bottle.git.rules import PROTECTED, PushRules, make_rules


def remote(url: str) -> Remote:
    return Remote("origin", url, url)


@pytest.mark.parametrize(
    ("url", "spellings"),
    [
        (
            "https://forge.example/team/project",
            [
                "https://forge.example/team/project",
                "https://forge.example/team/project.git",
                "ssh://git@forge.example/team/project.git",
                "git@forge.example:team/project.git",
            ],
        ),
        (
            "git@forge.example:team/project.git",
            [
                "git@forge.example:team/project.git",
                "https://forge.example/team/project.git",
                "ssh://git@forge.example/team/project.git",
            ],
        ),
        (
            "https://me:secret@forge.example/a.git",
            [
                "https://forge.example/a.git",
                "ssh://git@forge.example/a.git",
                "git@forge.example:a.git",
            ],
        ),
        ("ssh://git@forge.example:2222/a.git", ["ssh://git@forge.example:2222/a.git"]),
        ("https://forge.example:8443/a", ["https://forge.example:8443/a"]),
        ("/srv/git/a.git", ["/srv/git/a.git", "file:///srv/git/a.git"]),
    ],
)
def test_a_remote_is_found_by_every_form_of_its_url(url: str, spellings: list[str]) -> None:
    assert remote(url).spellings() == spellings


def test_no_password_of_a_url_is_in_the_bottle() -> None:
    found = variables([remote("https://me:secret@forge.example/a.git")], "http://127.0.0.1:3128", {})
    assert "secret" not in json.dumps(found)
    assert "secret" not in remote("https://me:secret@forge.example/a.git").shown


def test_settings_that_the_bottle_has_anyway_stay(tmp_path: Path) -> None:
    env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Agent"}
    env |= variables([remote("/srv/a.git")], "http://127.0.0.1:3128", env)
    repo = make_repo(tmp_path / "repo")

    def config(*args: str) -> str:
        return repo.git("config", *args, input=b"", check=True, **env)

    assert config("user.name") == "Agent"
    assert config("--get-all", "url.http://git.bottle/origin.insteadOf") == "/srv/a.git\nfile:///srv/a.git"
    assert config("--get-urlmatch", "http.proxy", "http://git.bottle/origin") == "http://127.0.0.1:3128"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ext::sh -c id", "it names a program"),
        ("git://forge.example/a", "only https, http, ssh, file"),
        ("-oProxyCommand=id", "it begins with -"),
        ("https://forge.example/\x1b[2J", "printable"),
    ],
)
def test_a_url_that_is_none_is_refused(tmp_path: Path, url: str, said: str) -> None:
    repo = make_repo(tmp_path / "repo")
    repo.git("config", "remote.origin.url", url)
    with pytest.raises(SpecError) as refused:
        find_remotes(repo.top, ["origin"])
    assert said in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("name", ["other", "-x", "a/b", "", "x.git", "a" * 100])
def test_a_remote_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    repo = make_repo(tmp_path / "repo")
    repo.git("remote", "add", "origin", "https://forge.example/a.git")
    with pytest.raises(SpecError):
        find_remotes(repo.top, [name])
    with pytest.raises(SpecError, match="not in a git repository"):
        find_remotes(tmp_path, ["origin"])


def test_a_relative_path_is_one_of_the_repository(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    repo.git("remote", "add", "origin", "../remote.git")
    (repo.top / "inner").mkdir()
    (found,) = find_remotes(repo.top / "inner", ["origin", "origin"])
    assert found.fetch == str(tmp_path / "remote.git")


def test_rules_are_checked() -> None:
    assert make_rules() == PushRules()
    assert make_rules(["a", "b/*"], [PROTECTED[0]]).allows_branch("b/c/d")
    for branches, paths in ((["refs/heads/a"], []), (["a b"], []), (["-a"], []), ([], ["src"])):
        with pytest.raises(SpecError):
            make_rules(branches, paths)


def helper(home: Path, token: str) -> None:
    """Write a credential helper into the user's settings."""
    text = f'!f() {{ test "$1" = get && echo username={USER} && echo password={token}; }}; f'
    Repo(home).git("config", "--file", str(home / ".gitconfig"), "credential.helper", text)


def test_a_forge_gets_the_users_credentials_and_the_bottle_has_none(tmp_path: Path, home: Path) -> None:
    make_remote(tmp_path)
    helper(home, TOKEN)
    with forge(tmp_path) as server:
        Repo(tmp_path / "remote.git").git("config", "http.receivepack", "true")
        with git_world(tmp_path, PushRules(), server.url("remote.git")) as world:
            clone = cloned(world)
            commit = clone.commit({"a": "a\n"})
            said = clone.pushes("-v", "origin", "HEAD")
            assert f"pushed to {server.url('remote.git')}" in said
            assert world.remote.git("rev-parse", "bottle/blue") == commit
            traced = clone.run("fetch", "origin", GIT_TRACE_CURL="1", GIT_TRACE="1")
            assert traced.code == 0
            assert "git.bottle" in traced.err
            assert "uthorization" not in traced.err
            assert TOKEN not in said + traced.err


def test_a_user_without_credentials_is_not_asked_and_it_is_explained(tmp_path: Path, home: Path) -> None:
    make_remote(tmp_path)
    with forge(tmp_path) as server, git_world(tmp_path, PushRules(), server.url("remote.git")) as world:
        said = world.inside.run("ls-remote", server.url("remote.git"))
        assert said.code != 0
        assert "remote error: bottle: git ls-remote failed for the remote origin" in said.err
        assert "could not read Username" in said.err
        helper(home, "wrong")
        said = world.inside.run("ls-remote", server.url("remote.git"))
        assert "Authentication failed" in said.err


def test_a_password_in_a_url_is_used_and_not_shown(tmp_path: Path) -> None:
    make_remote(tmp_path)
    with forge(tmp_path) as server:
        Repo(tmp_path / "remote.git").git("config", "http.receivepack", "true")
        place = server.url("remote.git").removeprefix("http://")
        with git_world(tmp_path, PushRules(), f"http://{USER}:{TOKEN}@{place}") as world:
            said = world.inside.run("clone", "-q", f"http://{place}", "clone")
            assert said.code == 0, said
            clone = type(world.inside)(world.inside.top / "clone", env=world.inside.env)
            clone.commit({"a": "a\n"})
            said_of_push = clone.pushes("origin", "HEAD:bottle/a")
            assert TOKEN not in said_of_push
            world.remote.top.rename(tmp_path / "gone")
            assert TOKEN not in clone.run("fetch", "origin").err


def test_ssh_is_run_with_the_users_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program takes the place of ssh: it runs the command here, as a server of the remote's would."""
    make_remote(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(
        f'#!/bin/sh\necho "$SSH_AUTH_SOCK $*" >> {tmp_path}/ssh.log\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path('/usr/bin')}:/bin")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    url = f"git@forge.example:{tmp_path}/remote.git"
    with git_world(tmp_path, PushRules(), url) as world:
        clone = cloned(world)
        commit = clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
        assert world.remote.git("rev-parse", "bottle/blue") == commit
    lines = (tmp_path / "ssh.log").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"/agent"}
    assert any("git@forge.example git-receive-pack" in line for line in lines)
