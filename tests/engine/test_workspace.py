"""A container's workspace: who may write, whose the files are, and what does not lead out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bottle import Ended
from tests.support.callers import COMMIT, EDIT, Caller, caller, edited, owners
from tests.support.engines import Docker
from tests.support.repos import Repo

USERS = ("0", "54321")  # those by name have 1000


@pytest.fixture
def root(docker: Docker) -> Iterator[Caller]:
    with caller(0, docker) as who:
        yield who


@pytest.fixture
def ordinary(docker: Docker) -> Iterator[Caller]:
    with caller(12345, docker) as who:
        yield who


@pytest.fixture(params=[pytest.param(0, marks=pytest.mark.slow), 12345], ids=["root", "ordinary"])
def anybody(docker: Docker, request: pytest.FixtureRequest) -> Iterator[Caller]:
    with caller(request.param, docker) as who:
        yield who


def run(who: Caller, repo: Repo, git_image: str, script: str, *options: str, user: str = "1000") -> Ended:
    docker = ("--backend", "docker", "--image", git_image, "-u", user)
    return who.run(repo, *docker, *options, "--", "sh", "-c", script)


MOUNT = ("--workspace", "mount")
CLONE = ("--workspace", "clone", "--name", "ship")


@pytest.mark.parametrize("user", [*USERS, "12345"])
def test_a_folder_is_written_by_any_user_and_stays_the_callers(
    anybody: Caller, git_image: str, user: str
) -> None:
    repo = anybody.repo()
    edited(run(anybody, repo, git_image, EDIT, *MOUNT, user=user), user, repo.top, anybody)
    anybody.left_nothing()


@pytest.mark.parametrize("user", ["agent", "agent:agent", "1000:0"])
def test_a_user_by_name_writes_files_that_stay_the_callers(root: Caller, git_image: str, user: str) -> None:
    repo = root.repo()
    edited(run(root, repo, git_image, EDIT, *MOUNT, user=user), "1000", repo.top, root)


@pytest.mark.parametrize("user", USERS)
def test_a_clone_is_worked_in_and_its_work_comes_back(anybody: Caller, git_image: str, user: str) -> None:
    repo = anybody.repo()
    before = repo.git("rev-parse", "HEAD")
    ended = run(anybody, repo, git_image, f"{EDIT}{COMMIT}", *CLONE, user=user)
    edited(ended, user, anybody.folder / "state/bottles/ship/clone/work", anybody)
    assert ended.out.splitlines()[-1] == "?? uncommitted"
    assert (repo.top / "README").read_text() == "readme\n"
    assert repo.git("rev-parse", "HEAD", "bottle/ship^").split() == [before, before]
    assert repo.git("log", "-1", "--format=%s", "bottle/ship") == "from inside"
    assert owners(repo.top) == {anybody.uid}
    shown = anybody.bottle("diff", "ship")
    assert "+more" in shown.out
    assert "+later" in shown.out
    applied = anybody.bottle("apply", "ship")
    assert (repo.top / "README").read_text() == "readme\nmore\n"
    assert (repo.top / "uncommitted").read_text() == "later\n"
    assert set(applied.out.split()) == {
        "README",
        "made/file",
        "made/link",
        "new",
        "old",
        "gone",
        "uncommitted",
    }
    assert owners(repo.top) == {anybody.uid}
    anybody.left_nothing()


def test_a_clone_is_removed_only_when_its_work_is_applied_or_by_force(root: Caller, git_image: str) -> None:
    repo = root.repo()
    assert run(root, repo, git_image, f"{EDIT}{COMMIT}", *CLONE).code == 0
    root.bottle("rm", "ship").failed(116, "uncommitted work", "bottle apply ship")
    assert root.bottle("apply", "ship").code == 0
    assert root.bottle("rm", "ship").out == "ship\n"
    assert repo.git("for-each-ref", "refs/bottle") == ""
    assert repo.git("log", "-1", "--format=%s", "bottle/ship") == "from inside"
    assert list((root.folder / "state").rglob("ship")) == []
    root.bottle("rm", "ship").failed(118, "no bottle named ship")
    repo.git("stash")
    assert run(root, repo, git_image, "echo more > lost", "--workspace", "clone", "--name", "two").code == 0
    root.bottle("rm", "two").failed(116, "two has")
    assert root.bottle("rm", "--force", "two").code == 0


def test_gits_own_files_in_a_mounted_folder_cannot_be_written(anybody: Caller, git_image: str) -> None:
    repo = anybody.repo()
    script = """
    git log --format=%s
    for file in config hooks/pre-commit commondir HEAD; do
      mkdir -p .git/hooks; echo x >> .git/$file && echo "wrote $file"
    done
    mv .git away && echo moved
    rm -rf .git; git commit -q --allow-empty -m x && echo committed
    umount /workspace/.git && echo unmounted; mount -o remount,rw /workspace/.git && echo remounted
    git log --format=%s
    """
    for user in ("0", "1000"):
        ended = run(anybody, repo, git_image, script, *MOUNT, user=user)
        assert ended.out.splitlines() == ["work", "work"], ended
        assert repo.git("status", "--porcelain") == ""


def test_a_conflict_of_apply_is_reported_and_changes_nothing(root: Caller, git_image: str) -> None:
    repo = root.repo()
    assert run(root, repo, git_image, f"{EDIT}{COMMIT}", *CLONE).code == 0
    repo.write({"README": "mine\n"})
    before = repo.git("status", "--porcelain")
    root.bottle("apply", "ship").failed(117, "README", "nothing was changed", "git merge")
    assert repo.git("status", "--porcelain") == before
    again = run(root, repo, git_image, "true", *CLONE)
    again.failed(116, "earlier bottle ship still exists")


def test_a_command_that_fails_or_is_killed_loses_nothing(root: Caller, git_image: str) -> None:
    repo = root.repo()
    ended = run(root, repo, git_image, f"{EDIT}{COMMIT}; kill -9 $$", *CLONE)
    assert ended.code == 137
    assert repo.git("log", "-1", "--format=%s", "bottle/ship") == "from inside"
    assert "+later" in root.bottle("diff", "ship").out


def test_what_an_agent_planted_is_neither_run_nor_followed(
    anybody: Caller, git_image: str, tmp_path: Path
) -> None:
    repo = anybody.repo()
    canary = anybody.folder / "ran"
    script = f"""
    printf '#!/bin/sh\\ntouch {canary}\\n' > evil && chmod +x evil
    for hook in post-checkout reference-transaction pre-commit post-merge; do cp evil .git/hooks/$hook; done
    git config core.fsmonitor /workspace/evil; git config core.hooksPath .git/hooks
    git config filter.x.clean /workspace/evil; git config filter.x.smudge /workspace/evil
    echo '* filter=x' > .gitattributes
    ln -s {anybody.folder}/secret leak; ln -s / everything; mkfifo pipe
    mkdir inner && cp -r .git inner/
    echo x > "$(printf 'new\\nline')"
    """
    secret = anybody.folder / "secret"
    secret.write_text("not for the bottle\n")
    ended = run(anybody, repo, git_image, f"mkdir -p .git/hooks\n{script}", *CLONE)
    assert ended.code == 0, ended
    shown = anybody.bottle("diff", "ship")
    assert "+x" in shown.out
    assert "not for the bottle" not in shown.out
    assert anybody.bottle("apply", "ship").code == 0
    assert not canary.exists()
    assert (repo.top / "leak").is_symlink()
    assert (repo.top / "new\nline").read_text() == "x\n"


@pytest.mark.parametrize("name", ["with, comma", 'quo"te', "new\nline", "--mount", "a:b"])
def test_a_folder_of_any_name_is_mounted(root: Caller, git_image: str, name: str) -> None:
    repo = root.repo(name)
    assert run(root, repo, git_image, "echo x > by", *MOUNT).code == 0
    assert (repo.top / "by").read_text() == "x\n"


def test_folders_of_others_home_and_system_are_not_mounted(
    root: Caller, git_image: str, tmp_path: Path
) -> None:
    repo = root.repo()
    os.chown(repo.top, 12345, 12345)
    run(root, repo, git_image, "true", *MOUNT).failed(116, "belongs to another user")
    home = Repo(root.folder)
    run(root, home, git_image, "true", *MOUNT).failed(116, "your home folder")
    run(root, Repo(Path("/etc")), git_image, "true", *MOUNT).failed(116, "system directory")
    run(root, Repo(tmp_path), git_image, "true", *CLONE).failed(116, "not a git repository")


def test_a_repositorys_file_asks_for_its_own_folder_alone(root: Caller, git_image: str) -> None:
    repo = root.repo()
    repo.write({"inner/bottle.toml": 'workspace = "mount"\n'})
    inner = Repo(repo.top / "inner")
    for options in ((), ("--yes",)):
        run(root, inner, git_image, "true", *options).failed(101, "more than its own folder")
    assert run(root, inner, git_image, "cat README", *MOUNT).out == "readme\n"
    repo.write({"bottle.toml": 'workspace = "clone"\n'})
    ended = run(root, repo, git_image, "pwd; git branch --show-current", "--name", "toml")
    assert ended.out == "/workspace\nbottle/toml\n", ended
    assert run(root, repo, git_image, "ls /workspace", "--workspace", "none").code != 0


def test_a_plan_shows_the_mount_and_writes_nothing(root: Caller, git_image: str) -> None:
    repo = root.repo()
    told = root.bottle("run", "--plan", "--image", git_image, "--backend", "docker", *MOUNT, cwd=repo.top)
    assert f'["{repo.top}:/workspace"]' in told.out
    assert not (root.folder / "state").exists()
