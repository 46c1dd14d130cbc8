"""People who run bottle on a repository of theirs, and what a bottle's user does in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.bottle import Bottle, Ended
from tests.support.engines import LABEL, OWNER, Docker, Podman
from tests.support.images import busybox_context, copy_with_libraries
from tests.support.repos import Repo, make_repo

DOCKERFILE = f"""\
FROM scratch
COPY rootfs /
ENV PATH=/usr/bin:/bin
LABEL {LABEL}={OWNER}
RUN mkdir -p /home/agent && chown 1000:1000 /home/agent
"""

# reads, writes, changes, makes all kinds of files, and says who it is and whose they are
EDIT = r"""
id -u
stat -c %u /workspace /workspace/README
echo more >> README && mkdir made && echo x > made/file && ln -s /etc/shadow made/link && chmod 700 made/file
mv old new && rm gone
stat -c %u made/file
"""
COMMIT = 'git add -A && git commit -q -m "from inside" && echo later > uncommitted && git status --porcelain'

# edits and commits, as its number in a fan has it: the second leaves work uncommitted, the third fails
AGENT = """
echo "working on $(git branch --show-current)"
number=$(git branch --show-current | sed 's/.*-//')
echo "$number" >> README && git commit -qam "work of $number"
[ "$number" = 2 ] && echo more > uncommitted
[ "$number" != 3 ]
"""


def git_context(folder: Path) -> Path:
    """Make a folder into a build context with a shell, git, and a user by name."""
    context = busybox_context(folder, DOCKERFILE)
    copy_with_libraries("git", context / "rootfs")
    return context


@dataclass(frozen=True)
class Caller:
    """Somebody who runs bottle, with a folder for all that is his."""

    uid: int
    folder: Path
    bottle: Bottle

    def run(self, repo: Repo, *args: str | Path, timeout: float = 120) -> Ended:
        return self.bottle("run", "-q", *args, cwd=repo.top, timeout=timeout)

    def repo(self, name: str = "repo") -> Repo:
        repo = make_repo(self.folder / name)
        repo.commit({"README": "readme\n", "old": "old\n", "gone": "gone\n"})
        for path in (repo.top, *repo.top.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
        return Repo(repo.top, self.uid)

    def left_nothing(self) -> None:
        """Hold that a bottle that has ended left no process, container, file or mount."""
        assert not self.bottle.leftovers, self.bottle.leftovers
        assert f"{self.folder}/state" not in Path("/proc/mounts").read_text()
        assert list((self.folder / "state").glob("mounts/*")) == []


@contextmanager
def caller(uid: int, engine: Docker | Podman, cache: Path | None = None) -> Iterator[Caller]:
    """Yield a caller; of podman it is root. His folder is a shared mount, as most folders are."""
    folder = Path(tempfile.mkdtemp(prefix="bot-bottle-user-"))
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)
    try:
        folder.chmod(0o755)
        os.chown(folder, uid, uid)
        changes = {**engine.variables, "BOT_BOTTLE_STATE_DIR": str(folder / "state"), "HOME": str(folder)}
        assert isinstance(engine, Docker) or not uid, "podman's storage is of the user who runs it"
        prefix = _as(uid, engine) if uid and isinstance(engine, Docker) else ()
        yield Caller(uid, folder, Bottle(cache or folder / "cache", changes, prefix=prefix))
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder)


def _as(uid: int, docker: Docker) -> tuple[str, ...]:
    socket = docker.env.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={Path(socket).stat().st_gid}")
    # he may read anything: the interpreter of these tests may be private to root
    return (*user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def owners(folder: Path) -> set[int]:
    """Whose files a folder holds."""
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def edited(ended: Ended, user: str, folder: Path, caller: Caller) -> None:
    """Hold that EDIT was done in a folder, as the bottle's user, and that all of it is the caller's."""
    assert ended.code == 0, ended
    assert ended.out.split()[:4] == [user] * 4, ended
    assert (folder / "README").read_text() == "readme\nmore\n"
    assert {".git", "README", "made", "new"} <= {path.name for path in folder.iterdir()}
    assert not {"old", "gone"} & {path.name for path in folder.iterdir()}
    assert (folder / "made/link").readlink() == Path("/etc/shadow")
    assert owners(folder) == {caller.uid}
