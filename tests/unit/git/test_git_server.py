"""git in a bottle against the git server: real git on both sides, and a real remote."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.support.git_world import GitWorld, cloned, git_world, make_remote
from tests.support.proxied import proxied, read_head, server
from tests.support.repos import Repo, make_repo

from bot_bottle.git.remotes import find_remotes, variables
from bot_bottle.git.rules import PushRules


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GitWorld]:
    with git_world(tmp_path, PushRules()) as made:
        yield made


def test_a_clone_has_what_the_remote_has_and_nothing_of_the_user(world: GitWorld) -> None:
    clone = cloned(world)
    assert clone.git("rev-parse", "main") == world.remote.git("rev-parse", "main")
    assert clone.run("ls-remote", "origin").out.splitlines() == [
        f"{world.remote.git('rev-parse', 'HEAD')}\tHEAD",
        f"{world.remote.git('rev-parse', 'main')}\trefs/heads/main",
        f"{world.remote.git('rev-parse', 'v1')}\trefs/tags/v1",
        f"{world.remote.git('rev-parse', 'v1^{}')}\trefs/tags/v1^{{}}",
    ]
    private = world.user.git("rev-parse", "private")
    assert clone.run("fetch", "-q", "origin", private).code != 0


def test_a_push_reaches_the_remote(world: GitWorld) -> None:
    clone = cloned(world)
    commit = clone.commit({"new": "work\n"})
    said = clone.pushes("origin", "bottle/blue")
    assert f"remote: bottle: bottle/blue: pushed to {world.remote.top}" in said
    assert world.remote.git("rev-parse", "bottle/blue") == commit
    again = clone.commit({"new": "more\n"})
    clone.pushes("origin", "HEAD")
    assert world.remote.git("rev-parse", "bottle/blue") == again


def test_a_fetch_has_what_was_pushed_by_others(world: GitWorld) -> None:
    clone = cloned(world)
    world.user.git("switch", "-q", "main")
    commit = world.user.commit({"by": "another\n"})
    world.user.git("push", "-q", "origin", "main")
    assert clone.run("fetch", "-q", "origin").code == 0
    assert clone.git("rev-parse", "origin/main") == commit


REFUSED_PUSHES = [
    (("HEAD:main",), "main: this branch is not allowed; allowed: bottle/*"),
    (("HEAD:refs/tags/v2",), "refs/tags/v2: only branches can be pushed"),
    (("HEAD:refs/notes/x",), "refs/notes/x: only branches can be pushed"),
    ((":bottle/old",), "bottle/old: a branch cannot be deleted"),
    (("--force", "HEAD~1:bottle/old"), "it is not a fast-forward, and --force is not allowed"),
    (("HEAD", "HEAD:main"), "main: this branch is not allowed"),
    (("HEAD^{tree}:refs/heads/bottle/tree",), "bottle/tree"),
]


def test_what_is_refused_is_said_by_the_git_in_the_bottle(world: GitWorld) -> None:
    clone = cloned(world)
    clone.commit({"old": "1\n"})
    clone.pushes("origin", "HEAD:bottle/old")
    clone.commit({"old": "2\n"})
    clone.pushes("origin", "HEAD:bottle/old")
    before = world.remote.refs()
    for push, said in REFUSED_PUSHES:
        assert said in clone.is_refused("origin", *push), push
        assert world.remote.refs() == before, push


def test_a_protected_path_may_not_be_changed_unless_it_is_allowed(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules()) as world:
        clone = cloned(world)
        clone.commit({"README": "two\n"})
        clone.commit({".github/workflows/ci.yml": "on: [push]\nrun: curl evil.example\n"})
        clone.commit({"README": "three\n"})
        said = clone.is_refused("origin", "HEAD")
        assert "remote: bottle: .github/workflows: this path is protected" in said
        clone.git("revert", "--no-edit", "HEAD~1")  # it was there in between, and a forge may have run it
        assert "protected" in clone.is_refused("origin", "HEAD")
    with git_world(tmp_path, PushRules(paths=(".github/workflows",))) as world:
        clone = type(world.inside)(world.inside.top / "clone", env=world.inside.env)
        clone.pushes("origin", "HEAD")


def test_a_merge_of_what_the_remote_has_does_not_change_a_protected_path(world: GitWorld) -> None:
    clone = cloned(world)
    clone.commit({"new": "work\n"})
    world.user.commit({".github/workflows/ci.yml": "on: [push]\n"})
    world.user.git("push", "-q", "origin", "main")
    assert clone.run("pull", "-q", "--no-rebase", "--no-edit", "origin", "main").code == 0
    clone.pushes("origin", "HEAD")


TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


def test_a_secret_is_not_pushed(world: GitWorld) -> None:
    clone = cloned(world)
    clone.commit({"src/settings.py": f'first = 1\nkey = "{TOKEN}"\n'})
    clone.commit({"src/settings.py": "first = 1\n"})  # it is in the history all the same
    said = clone.is_refused("origin", "HEAD")
    assert "remote: bottle: this looks like a secret" in said
    assert "src/settings.py:2: GitHub Token" in said
    assert TOKEN not in said
    assert world.remote.refs("refs/heads/bottle") == []


def test_a_secret_in_a_message_is_not_pushed(world: GitWorld) -> None:
    clone = cloned(world)
    clone.commit({"a": "a\n"}, message=f"use {TOKEN}")
    assert "the message of" in clone.is_refused("origin", "HEAD")


def test_a_line_that_was_there_before_is_no_new_secret(world: GitWorld) -> None:
    world.user.git("switch", "-q", "main")
    world.user.commit({"example.py": f'key = "{TOKEN}"\n'})
    world.user.git("push", "-q", "origin", "main")
    clone = cloned(world)
    clone.commit({"example.py": f'import os\nkey = "{TOKEN}"\n'})
    clone.pushes("origin", "HEAD")


def test_secrets_are_not_searched_for_where_the_user_says_so(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules(secrets=False)) as world:
        clone = cloned(world)
        clone.commit({"example.py": f'key = "{TOKEN}"\n'})
        clone.pushes("origin", "HEAD")


def test_a_push_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules(largest=100_000)) as world:
        clone = cloned(world)
        clone.commit({"large": os.urandom(200_000)})
        assert "pack exceeds maximum allowed size" in clone.is_refused("origin", "HEAD")
        clone.git("reset", "-q", "--hard", "HEAD~1")
        clone.commit({"huge": os.urandom(2_500_000)})  # more than is stored of a request
        assert "pack exceeds maximum allowed size" in clone.is_refused("origin", "HEAD")
        clone.git("reset", "-q", "--hard", "HEAD~1")
        clone.commit({"small": os.urandom(50_000)})
        clone.pushes("origin", "HEAD")


def test_what_the_remote_refuses_is_refused_in_its_words(world: GitWorld) -> None:
    hook = world.remote.top / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho the forge says no >&2\nexit 1\n")
    hook.chmod(0o755)
    clone = cloned(world)
    clone.commit({"a": "a\n"})
    said = clone.is_refused("origin", "HEAD")
    assert "the forge says no" in said
    assert "pre-receive hook declined" in said


def test_several_branches_are_pushed_all_or_none(world: GitWorld) -> None:
    hook = world.remote.top / "hooks/update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ncase "$1" in */two) exit 1;; esac\n')
    hook.chmod(0o755)
    clone = cloned(world)
    clone.commit({"a": "a\n"})
    clone.is_refused("origin", "HEAD:bottle/one", "HEAD:bottle/two")
    assert world.remote.refs("refs/heads/bottle") == []
    clone.pushes("origin", "HEAD:bottle/one", "HEAD:bottle/three")
    assert world.remote.refs("refs/heads/bottle") == ["refs/heads/bottle/one", "refs/heads/bottle/three"]


def test_a_branch_that_others_have_moved_is_not_overwritten(world: GitWorld) -> None:
    clone = cloned(world)
    clone.commit({"a": "a\n"})
    clone.pushes("origin", "HEAD")
    world.user.git("fetch", "-q", "origin")
    world.user.git("switch", "-q", "-c", "theirs", "origin/bottle/blue")
    theirs = world.user.commit({"b": "b\n"})
    world.user.git("push", "-q", "origin", "theirs:bottle/blue")
    clone.commit({"c": "c\n"})
    assert "fetch first" in clone.is_refused("origin", "HEAD")
    assert "not a fast-forward" in clone.is_refused("--force", "origin", "HEAD")
    assert world.remote.git("rev-parse", "bottle/blue") == theirs


def test_a_remote_that_cannot_be_reached_is_explained(world: GitWorld) -> None:
    clone = cloned(world)
    world.remote.top.rename(world.remote.top.with_name("gone.git"))
    said = clone.run("fetch", "origin")
    assert said.code != 0
    assert "remote error: bottle: git fetch failed for the remote origin" in said.err


def test_only_the_named_remote_is_served(world: GitWorld) -> None:
    said = world.inside.run("ls-remote", "http://git.bottle/other")
    assert said.code != 0
    assert "not found" in said.err


def test_settings_and_hooks_of_the_user_repository_are_not_used(tmp_path: Path) -> None:
    _, user = make_remote(tmp_path)
    ran = tmp_path / "ran"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
    hook.chmod(0o755)
    for name in ("pre-push", "reference-transaction", "post-checkout", "pre-receive"):
        shutil.copy2(hook, user.top / ".git/hooks" / name)
    for key in ("core.fsmonitor", "core.sshCommand", "credential.helper", "uploadpack.packObjectsHook"):
        user.git("config", key, str(hook))
    with git_world(tmp_path, PushRules()) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
    assert not ran.exists()


def test_a_shallow_or_partial_clone_in_the_bottle_works(world: GitWorld) -> None:
    for name, option in (("shallow", "--depth=1"), ("partial", "--filter=blob:none")):
        assert world.inside.run("clone", "-q", option, "http://git.bottle/origin", name).code == 0
        clone = type(world.inside)(world.inside.top / name, env=world.inside.env)
        clone.commit({name: "work\n"})
        clone.pushes("origin", f"HEAD:bottle/{name}")
    assert len(world.remote.refs("refs/heads/bottle")) == 2


def test_nothing_runs_and_nothing_is_left_when_the_server_has_ended(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules()) as world:
        clone = cloned(world)
        clone.commit({"a": "a\n"})
        clone.pushes("origin", "HEAD")
        run = world.run
    assert not run.exists()


def test_a_longer_url_than_the_remotes_leads_to_its_own_repository(tmp_path: Path) -> None:
    other = make_repo(tmp_path / "other")
    other.commit({"README": "another repository\n"})
    forge = tmp_path / "forge"
    other.git("clone", "-q", "--bare", str(other.top), str(forge / "one-more.git"))
    Repo(forge / "one-more.git").git("update-server-info")
    with server(partial(_files, forge)) as port:
        url = f"http://127.0.0.1:{port}/one"
        with git_world(tmp_path, PushRules(), url) as world:
            services = {"git.bottle:80": str(world.socket)}
            (tmp_path / "proxy").mkdir()
            with proxied(tmp_path / "proxy", [f"127.0.0.1:{port}"], services=services) as proxy:
                remotes = find_remotes(world.user.top, ["origin"])
                env = {**world.inside.env, **variables(remotes, f"http://127.0.0.1:{proxy.port}", {})}
                inside = replace(world.inside, env=env)
                said = inside.run("clone", "-q", f"{url}-more.git", "more")
                assert said.code == 0, said
                missing = inside.run("ls-remote", f"{url}-less.git")
    assert (world.inside.top / "more" / "README").read_text() == "another repository\n"
    assert (missing.code, "not found" in missing.err) == (128, True), missing


def _files(folder: Path, plug: socket.socket) -> None:
    """Serve the files of a folder by HTTP, one to a connection."""
    target = read_head(plug).split()[1].decode().partition("?")[0]
    path = folder / target.lstrip("/")
    body = path.read_bytes() if path.is_file() else b""
    head = "200 OK" if path.is_file() else "404 Not Found"
    plug.sendall(
        f"HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def test_a_longer_url_of_another_protocol_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with git_world(tmp_path, PushRules(), "git@forge.example:team/one") as world:
        said = world.inside.run("ls-remote", "git@forge.example:team/one-more")
    assert said.code != 0
    assert "let the URL of the remote end with .git: git remote set-url NAME URL.git" in said.err


def test_git_lfs_says_that_its_objects_are_not_transferred(world: GitWorld) -> None:
    clone = cloned(world)
    assert clone.run("lfs", "install", "--local").code == 0
    clone.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": "content\n"})
    said = clone.is_refused("origin", "HEAD")
    assert "bottle: git LFS objects are not transferred" in said
    assert not world.remote.refs("refs/heads/bottle")
