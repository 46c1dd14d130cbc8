"""A microVM's workspace: a boot with a mounted folder, one with a clone, by root and an ordinary user."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.callers import COMMIT, EDIT, Caller, caller, edited, git_context, owners
from tests.support.engines import Docker

BOOT = 120
DIRECT = ("--accel", "direct", "-m", "1g")

# what root of the guest cannot do to what is kept, not even behind the back of the mount
PRY = r"""
for file in config hooks/pre-commit commondir; do echo x >> .git/$file && echo "wrote $file"; done
mv .git away && echo moved
mkdir -p /behind && for tag in share workspace; do mount -t virtiofs $tag /behind && break; done
echo x >> /behind/.git/config && echo "wrote behind"
mknod dev c 1 5; ls -d /workspace/../etc/passwd
"""

# what a file does on a disk, and what a shared one does not do; each line prints one line
EXACT = r"""
echo linked > a && ln a b && rm a && cat b
exec 3< b && rm b && cat <&3
echo new > c && echo old > d && exec 4< d && mv c d && cat d <&4 - | tr '\n' ' ' && echo
echo 1 >> e && echo 2 >> e && tr '\n' ' ' < e && echo
chmod 751 e && stat -c %a e
touch -d '2001-02-03 04:05:06' e && stat -c %Y e
ln -s nowhere/else l && readlink l
mkfifo p && { echo piped > p & } && cat p
mkdir many && (cd many && seq 300 | xargs touch) && ls many | wc -l && rm -r many
flock e flock -n e true || echo locked
touch Case case && ls [Cc]ase | wc -l
chmod 4755 e 2>/dev/null || echo no set-user-ID
chown 33 e 2>/dev/null || echo no owner
ln .git/HEAD head 2>/dev/null || echo no link to what is read-only
git fsck 2>/dev/null && echo sound
"""
PRINTED = """
linked
linked
new old
1 2
751
981173106
nowhere/else
piped
300
locked
2
no set-user-ID
no owner
no link to what is read-only
sound
"""


@pytest.fixture(scope="module")
def archive(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with git and a user by name, as an archive."""
    folder = tmp_path_factory.mktemp("image")
    image = docker.build(git_context(folder / "context"), "--tag", "bot-bottle-test-workspace")
    docker.docker("save", "--output", str(folder / "image.tar"), "bot-bottle-test-workspace")
    assert image
    return folder / "image.tar"


def prepared(who: Caller, archive: Path, shared_cache: Path) -> Path:
    """Give the caller his own copy of the image and of what an emulated host is made of."""
    own = Path(shutil.copy(archive, who.folder / "image.tar"))
    own.chmod(0o644)
    return own


@pytest.mark.timeout(900)
def test_roots_folder_is_written_by_an_ordinary_user_of_the_bottle(
    docker: Docker, archive: Path, shared_cache: Path
) -> None:
    with caller(0, docker, cache=shared_cache) as root:
        repo = root.repo()
        script = f"{EDIT}\ngit log --format=%s; {COMMIT}\n{PRY}"
        options = (
            "--workspace",
            "mount",
            "-u",
            "agent",
            *DIRECT,
            "--archive",
            prepared(root, archive, shared_cache),
        )
        ended = root.run(repo, *options, "--", "sh", "-c", script, timeout=BOOT)
        lines = ended.out.splitlines()
        edited(ended, "1000", repo.top, root)
        assert lines[4:] == ["work", "/workspace/../etc/passwd"], ended
        assert repo.git("status", "--porcelain", "-uno") == " M README\n D gone\n D old"
        root.left_nothing()


@pytest.mark.timeout(900)
def test_an_ordinary_users_clone_is_worked_in_by_a_stranger(
    docker: Docker, archive: Path, shared_cache: Path
) -> None:
    with caller(12345, docker) as ordinary:
        repo = ordinary.repo()
        own = prepared(ordinary, archive, shared_cache)
        options = ("--workspace", "clone", "--name", "ship", "-u", "54321", *DIRECT, "--archive", own)
        ended = ordinary.run(repo, *options, "--", "sh", "-c", f"{EDIT}{COMMIT}", timeout=BOOT)
        edited(ended, "54321", ordinary.folder / "state/bottles/ship/clone/work", ordinary)
        assert repo.git("log", "-1", "--format=%s", "bottle/ship") == "from inside"
        assert "+later" in ordinary.bottle("diff", "ship").out
        assert ordinary.bottle("apply", "ship").code == 0
        assert (repo.top / "uncommitted").read_text() == "later\n"
        assert owners(repo.top) == {12345}
        ordinary.left_nothing()


@pytest.mark.timeout(300)
def test_a_shared_file_is_as_on_a_disk(docker: Docker, archive: Path, shared_cache: Path) -> None:
    with caller(12345, docker) as ordinary:
        repo = ordinary.repo()
        own = prepared(ordinary, archive, shared_cache)
        options = ("--workspace", "mount", "-u", "0", *DIRECT, "--archive", own)
        ended = ordinary.run(repo, *options, "--", "sh", "-c", EXACT, timeout=BOOT)
        assert [line.strip() for line in ended.out.splitlines()] == PRINTED.split("\n")[1:-1], ended
        assert owners(repo.top) == {12345}
        assert (repo.top / "e").stat().st_mode & 0o7777 == 0o751
        ordinary.left_nothing()


# how much a command reads: the kernel counts it for the shell when the command has ended (proc(5))
READS = """
count() { sed -n 's/^rchar: //p' /proc/$$/io; }
before=$(count); git status --short; after=$(count); echo $((after - before))
printf 1 > 0/1; git status --short; git diff-files --name-only
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("uid", [12345, pytest.param(0, marks=pytest.mark.slow)])
def test_git_need_not_read_the_files_of_a_new_clone(
    docker: Docker, archive: Path, shared_cache: Path, uid: int
) -> None:
    with caller(uid, docker, cache=shared_cache if uid == 0 else None) as who:
        repo = who.repo()
        repo.write({f"{number % 9}/{number}": "a\n" * 10_000 for number in range(300)})
        repo.write({"0/1": "0"})
        repo.git("add", "--all")
        repo.git("commit", "-q", "-m", "files")
        state = (repo.top / ".git/index").read_bytes()
        own = prepared(who, archive, shared_cache)
        options = ("--workspace", "clone", "--name", "reads", "-u", "agent", *DIRECT, "--archive", own)
        ended = who.run(repo, *options, "--", "sh", "-c", READS, timeout=BOOT)
        assert ended.code == 0, ended
        read, *changed = ended.out.splitlines()
        assert int(read) < 100_000  # of 6 MB: git's own libraries, the index, and who commits
        assert changed == [" M 0/1", "0/1"]
        assert (repo.top / ".git/index").read_bytes() == state
        assert who.bottle("rm", "--force", "reads").code == 0
