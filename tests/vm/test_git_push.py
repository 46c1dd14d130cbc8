"""git in a microVM fetches from a remote and pushes to it, without KVM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.callers import caller
from tests.support.engines import Docker
from tests.support.git_world import git_client_context
from tests.support.repos import Repo

BOOT = 500
OPTIONS = ("-m", "1g", "--workspace", "clone", "--name", "ship", "--git-push", "origin")
SCRIPT = """
set -e
git fetch -q origin && git log --format=%s origin/main -1
echo work > new && git add new && git commit -q -m work
git push -q origin HEAD:main && exit 1
git push
"""


@pytest.fixture(scope="module")
def archive(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a git that can use HTTP, as an archive."""
    folder = tmp_path_factory.mktemp("image")
    docker.build(git_client_context(folder / "context"), "--tag", "bot-bottle-test-git-push")
    docker.docker("save", "--output", str(folder / "image.tar"), "bot-bottle-test-git-push")
    return folder / "image.tar"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("accel", "uid"),
    [
        pytest.param("direct", 0, id="direct-root", marks=pytest.mark.slow),
        pytest.param("direct", 12345, id="direct-ordinary"),
        pytest.param("nested", 0, id="nested-root", marks=pytest.mark.slow),
    ],
)
def test_a_clone_pushes_to_its_remote(
    docker: Docker, archive: Path, shared_cache: Path, accel: str, uid: int
) -> None:
    with caller(uid, docker, None if uid else shared_cache) as who:
        own = Path(shutil.copy(archive, who.folder / "image.tar"))
        own.chmod(0o644)
        repo = who.repo()
        bare = Repo(who.folder / "remote.git", uid)
        subprocess.run(["git", "clone", "-q", "--bare", repo.top, bare.top], user=uid, check=True)
        repo.git("remote", "add", "origin", str(bare.top))
        script = ("-u", "1000", "--archive", own, "--", "sh", "-c", SCRIPT)
        ended = who.run(repo, "--accel", accel, *OPTIONS, *script, timeout=BOOT)
        assert ended.code == 0, ended
        assert ended.out.splitlines()[0] == "work"
        assert "main: this branch is not allowed" in ended.err
        assert f"remote: bottle: bottle/ship: pushed to {bare.top}" in ended.err
        assert bare.shows("bottle/ship", "new") == "work"
        who.left_nothing()
