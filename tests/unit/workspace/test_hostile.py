"""Agents and strangers who want to have their programs run here, or to see what is not theirs."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.repos import Repo, make_repo

from bot_bottle.errors import BottleError, WorkspaceError
from bot_bottle.workspace.clone import Clone, create
from bot_bottle.workspace.fetch import collect
from bot_bottle.workspace.repository import open_repository
from bot_bottle.workspace.review import apply, diff, discard, summary, unfetched

HOOKS = """
applypatch-msg pre-applypatch post-applypatch pre-commit prepare-commit-msg commit-msg post-commit pre-rebase
post-checkout post-merge pre-push pre-receive update proc-receive post-receive post-update pre-auto-gc
reference-transaction push-to-checkout post-rewrite fsmonitor-watchman post-index-change
"""

CONFIG = """
[core]
    fsmonitor = {0}
    hooksPath = {1}
    pager = {0}
    editor = {0}
    sshCommand = {0}
    gitProxy = {0}
    askPass = {0}
    alternateRefsCommand = {0}
    attributesFile = {1}/attributes
[filter "evil"]
    clean = {0}
    smudge = {0}
    process = {0}
    required = true
[diff]
    external = {0}
[diff "evil"]
    command = {0}
    textconv = {0}
[merge "evil"]
    driver = {0}
[uploadpack]
    packObjectsHook = {0}
[gpg]
    program = {0}
[commit]
    gpgSign = true
[credential]
    helper = {0}
[url "ext::{0} "]
    insteadOf = /
[protocol]
    allow = always
[protocol "ext"]
    allow = always
[remote "origin"]
    url = ext::{0}
    uploadpack = {0}
    promisor = true
[extensions]
    worktreeConfig = true
[submodule]
    recurse = true
[trailer "x"]
    command = {0}
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A program that nobody may run, and the file that tells who did."""
    (tmp_path / "canary").mkdir()
    program = tmp_path / "canary/program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {program}.ran\ncat\n')
    program.chmod(0o755)
    return program


def ran(canary: Path) -> str:
    log = canary.with_name("program.ran")
    return log.read_text() if log.exists() else ""


def plant(git_folder: Path, canary: Path) -> None:
    """Fill a git folder with all that makes git run something."""
    hooks = git_folder / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in HOOKS.split():
        (hooks / name).write_text(canary.read_text())
        (hooks / name).chmod(0o755)
    with (git_folder / "config").open("a") as config:
        config.write(CONFIG.format(canary, hooks))
    (git_folder / "info").mkdir(exist_ok=True)
    (git_folder / "info/attributes").write_text("* filter=evil diff=evil merge=evil\n")


def everything(clone: Clone) -> None:
    """All that is done with a clone after an agent had it."""
    clone, work = collect(clone, ended=True)
    summary(clone, work)
    with diff(clone, work) as stream:
        stream.read()
    clone, _ = apply(clone, work)
    unfetched(clone)
    discard(clone)


ATTRIBUTES = "* filter=evil diff=evil merge=evil\n"


def test_the_planted_program_is_run_by_plain_git(user: Repo, canary: Path) -> None:
    plant(user.top / ".git", canary)
    user.write({".gitattributes": ATTRIBUTES, "README": "x\n"})
    user.git("status", check=False)
    assert ran(canary)


def test_nothing_that_an_agent_plants_is_run(user: Repo, agent: Repo, clone: Clone, canary: Path) -> None:
    agent.commit({".gitattributes": ATTRIBUTES, "README": "agent\ntwo\nthree\nfour\nfive\n"})
    agent.write({"docs/a": "changed\n", "new": "x\n"})
    user.commit({"README": "one\ntwo\nthree\nfour\nuser\n"})
    inner = make_repo(agent.top / "inner")
    inner.commit({"x": "1"})
    agent.git("add", "inner")
    agent.git("commit", "-q", "-m", "with a submodule")
    for repo in (agent, inner):
        plant(repo.top / ".git", canary)
    inner.write({"x": "changed"})
    everything(clone)
    assert ran(canary) == ""
    assert (user.top / "README").read_text() == "agent\ntwo\nthree\nfour\nuser\n"


def test_nothing_that_a_stranger_planted_is_run(
    user: Repo, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.commit({".gitattributes": ATTRIBUTES})
    plant(user.top / ".git", canary)
    for name in ("GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND", "GIT_ASKPASS", "GIT_EDITOR"):
        monkeypatch.setenv(name, str(canary))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(canary))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(user.top / ".git"))
    (user.top / "README").write_text("dirty\n")
    clone = create(tmp_path / "state/ship", open_repository(user.top), "ship", include_dirty=True)
    (clone.work / "new").write_text("x\n")
    everything(clone)
    assert ran(canary) == ""
    assert (user.top / "new").read_text() == "x\n"


@pytest.fixture
def secret(tmp_path: Path) -> Repo:
    """Another repository of the user's, of which nothing may be seen."""
    repo = make_repo(tmp_path / "secret")
    repo.commit({"password": "hunter2\n"})
    return repo


def holds_the_secret(user: Repo, secret: Repo) -> bool:
    return user.git("cat-file", "-t", secret.git("rev-parse", "HEAD:password"), check=False) != ""


BRANCH = "refs/heads/bottle/ship"

Break = Callable[[Path, Repo], None]


def link(target: str) -> Break:
    """The file or folder becomes a link into the secret repository."""

    def breaks(path: Path, secret: Repo) -> None:
        swap(path)
        path.symlink_to(secret.top / target)

    return breaks


def says(text: str) -> Break:
    """It becomes a file with this text."""

    def breaks(path: Path, secret: Repo) -> None:
        swap(path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(top=secret.top, head=secret.git("rev-parse", "HEAD")))

    return breaks


def pipe(path: Path, secret: Repo) -> None:
    swap(path)
    os.mkfifo(path)


def gone(path: Path, secret: Repo) -> None:
    swap(path)


def swap(path: Path) -> None:
    if os.path.lexists(path):
        path.rename(path.with_name(path.name + ".away"))


def lend(git: Path, secret: Repo) -> None:
    says("{top}/.git/objects\n")(git / "objects/info/alternates", secret)
    says("{head}\n")(git / BRANCH, secret)


def lend_by_links(git: Path, secret: Repo) -> None:
    for fan in (secret.top / ".git/objects").glob("??"):
        shutil.rmtree(git / "objects" / fan.name, ignore_errors=True)
        (git / "objects" / fan.name).symlink_to(fan)
    says("{head}\n")(git / BRANCH, secret)


AGENTS: list[tuple[str, Break]] = [
    (".git", link(".git")),
    (".git", says("gitdir: {top}/.git\n")),
    (".git", pipe),
    (".git", gone),
    (".git/objects", link(".git/objects")),
    (".git/objects", pipe),
    (".git/objects/pack", link(".git/objects/pack")),
    (".git/refs", link(".git/refs")),
    (f".git/{BRANCH}", link(".git/refs/heads/main")),
    (f".git/{BRANCH}", pipe),
    (f".git/{BRANCH}", says("1" * 40)),
    (".git/HEAD", pipe),
    (".git/HEAD", link("password")),
    (".git/HEAD", says("\x1b]0;evil\x07" + "x" * 9999)),
    (".git/HEAD", says("2" * 40)),
    (".git/packed-refs", lambda path, secret: path.symlink_to("/dev/zero")),
    (".git", lend),
    (".git", lend_by_links),
]


@pytest.mark.parametrize(("part", "breaks"), AGENTS)
def test_a_clone_that_was_broken_gives_nothing(
    user: Repo, clone: Clone, secret: Repo, agent: Repo, part: str, breaks: Break
) -> None:
    agent.commit({"new": "x"})
    before = user.refs()
    breaks(clone.work / part, secret)
    with pytest.raises(WorkspaceError) as told:
        collect(clone, ended=True)
    assert "\x1b" not in str(told.value)
    assert not holds_the_secret(user, secret)
    assert user.refs() == before
    assert unfetched(clone)
    discard(clone)
    assert not clone.folder.exists()
    assert secret.shows("HEAD", "password") == "hunter2"


def evil_tree(agent: Repo, *names: str) -> str:
    """Make a commit whose tree has names that git itself would never write."""
    blob = agent.git("hash-object", "-w", "--stdin", input=b"#!/bin/sh\ntouch /tmp/evil\n")
    value = bytes.fromhex(blob)
    for name in reversed(names):
        mode = b"100755" if name == names[-1] else b"40000"
        entry = mode + b" " + name.encode() + b"\0" + value
        value = bytes.fromhex(
            agent.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", input=entry)
        )
    commit = agent.git("commit-tree", value.hex(), "-p", "HEAD", "-m", "evil")
    agent.git("update-ref", "HEAD", commit)
    return commit


@pytest.mark.parametrize(
    "names", [(".git", "hooks", "pre-commit"), ("..", "x"), (".GIT", "config"), ("git~1", "config"), ("a/b",)]
)
def test_trees_that_would_write_elsewhere_do_not_come_in(
    user: Repo, agent: Repo, clone: Clone, names: tuple[str, ...]
) -> None:
    commit = evil_tree(agent, *names)
    before = user.refs()
    with pytest.raises(WorkspaceError):
        collect(clone, ended=True)
    assert user.refs() == before
    assert user.git("cat-file", "-t", commit, check=False) == ""


def garbage_object(git: Path) -> None:
    path = git / "objects/aa" / ("b" * 38)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(b"blob 1\0x"))


def sparse_object(git: Path) -> None:
    path = git / "objects/aa" / ("b" * 38)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(b"\x78\x01")
        file.truncate(1 << 42)


def sparse_pack(git: Path) -> None:
    with (git / "objects/pack" / f"pack-{'a' * 40}.pack").open("wb") as file:
        file.write(b"PACK\0\0\0\2\0\0\0\1")
        file.truncate(1 << 42)


def bomb(git: Path) -> None:
    """An object of 4 GiB in 4 MB."""
    path = git / "objects/aa" / ("b" * 38)
    path.parent.mkdir(exist_ok=True)
    packer = zlib.compressobj(9)
    head = packer.compress(b"blob 4294967296\0") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(head + block * 4096)


@pytest.mark.parametrize(
    "damage", [garbage_object, sparse_object, sparse_pack, pytest.param(bomb, marks=pytest.mark.slow)]
)
def test_objects_that_are_none_are_refused(
    user: Repo, agent: Repo, clone: Clone, damage: Callable[[Path], None]
) -> None:
    damage(agent.top / ".git")
    with pytest.raises(WorkspaceError):
        collect(clone, ended=True)
    assert [path.name for path in clone.folder.iterdir() if path.name == "scratch"] == []
    assert "refs/bottle/ship/head" not in user.refs()


def test_references_are_only_names_and_commits(user: Repo, agent: Repo, clone: Clone) -> None:
    head = agent.commit({"new": "1"})
    side = agent.git("commit-tree", "HEAD^{tree}", "-m", "side")
    odd = [
        "refs/heads/../../../config",
        "refs/heads/-x",
        "refs/heads/a\x1b[31m",
        "refs/heads/.lock",
        "refs/heads//",
    ]
    with (agent.top / ".git/packed-refs").open("a") as file:
        file.writelines(f"{side} {name}\n" for name in odd)
        file.write("\0\n" * 1000)
    (agent.top / ".git/refs/heads/new\nline").write_text(side + "\n")
    (agent.top / ".git/refs/heads/text").write_text("ref: refs/heads/text\n")
    config = (user.top / ".git/config").read_bytes()
    _, work = collect(clone, ended=True)
    assert work.head == head
    assert [user.git("rev-parse", name) for name in work.others] == [side]
    assert work.others[0].isascii()
    assert (user.top / ".git/config").read_bytes() == config


def test_too_many_branches_are_refused(user: Repo, agent: Repo, clone: Clone) -> None:
    commits = [agent.git("commit-tree", "HEAD^{tree}", "-m", str(number)) for number in range(101)]
    lines = (f"create refs/heads/b{number} {commit}\n" for number, commit in enumerate(commits))
    agent.git("update-ref", "--stdin", input="".join(lines).encode())
    with pytest.raises(WorkspaceError, match="more than 100 branches"):
        collect(clone, ended=True)


def test_links_in_the_folder_are_kept_as_links(user: Repo, agent: Repo, clone: Clone, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("a", "b"):
        (outside / name).write_text("not yours\n")
    swap(agent.top / "docs")
    (agent.top / "docs").symlink_to(outside)
    (agent.top / "file").symlink_to(outside / "a")
    (agent.top / "dangling").symlink_to("/nowhere/at/all")
    (agent.top / "loop").symlink_to(".")
    clone, work = collect(clone, ended=True)
    names = user.names(work.uncommitted)
    assert {"docs", "file", "dangling", "loop"} <= set(names)
    assert not [name for name in names if name.startswith(("docs/", "loop/"))]
    assert user.shows(work.uncommitted, "file") == f"{outside}/a"
    blobs = user.git("ls-tree", "-r", work.uncommitted)
    assert user.git("hash-object", outside / "a") not in blobs
    apply(clone, work)
    assert (user.top / "docs").is_symlink()
    assert (outside / "b").read_text() == "not yours\n"


def test_a_link_in_the_users_folder_is_not_written_through(
    user: Repo, agent: Repo, clone: Clone, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    agent.commit({"sub/evil": "x\n"})
    (user.top / "sub").symlink_to(outside)
    clone, work = collect(clone, ended=True)
    with pytest.raises(BottleError):
        apply(clone, work)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", [".gitignore", ".gitattributes", "docs/.gitattributes", "docs/.gitignore"])
def test_a_pipe_where_git_reads_keeps_commits_coming(
    user: Repo, agent: Repo, clone: Clone, name: str
) -> None:
    head = agent.commit({"new": "1\n"})
    (agent.top / name).unlink(missing_ok=True)
    os.mkfifo(agent.top / name)
    _, work = collect(clone, ended=True)
    assert (work.head, work.uncommitted) == (head, "")
    assert "not in a regular file" in work.left[0]


def test_what_is_no_file_is_not_work(user: Repo, agent: Repo, clone: Clone) -> None:
    (agent.top / "README").unlink()
    os.mkfifo(agent.top / "README")
    os.mkfifo(agent.top / "pipe")
    (agent.top / "src/main.py").unlink()
    (agent.top / "src/main.py/inside").mkdir(parents=True)
    (agent.top / "src/main.py/inside/file").write_text("x\n")
    _, work = collect(clone, ended=True)
    assert user.names(work.uncommitted) == [".gitignore", "docs/a", "src/main.py/inside/file"]


def test_repositories_inside_are_left_and_named(user: Repo, agent: Repo, clone: Clone) -> None:
    make_repo(agent.top / "vendor/dep").commit({"x": "1"})
    (agent.top / "fake").mkdir()
    os.mkfifo(agent.top / "fake/.git")
    (agent.top / "half/.git").mkdir(parents=True)
    os.mkfifo(agent.top / "half/.git/HEAD")
    agent.write({"fine": "x"})
    _, work = collect(clone, ended=True)
    assert user.names(work.uncommitted) == [".gitignore", "README", "docs/a", "fine", "src/main.py"]
    assert [line.split("/work/")[1].split()[0] for line in sorted(work.left)] == [
        "fake",
        "half",
        "vendor/dep",
    ]


def test_a_folder_without_end_can_be_removed(agent: Repo, clone: Clone) -> None:
    deep = os.open(agent.top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 100, dir_fd=deep)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    (agent.top / "closed/inner").mkdir(parents=True)
    (agent.top / "closed").chmod(0)
    (agent.top / "away").symlink_to("/etc")
    assert unfetched(clone)
    discard(clone)
    assert not clone.folder.exists()
    assert Path("/etc/passwd").exists()


def test_an_index_of_the_agents_is_not_read(user: Repo, agent: Repo, clone: Clone) -> None:
    (agent.top / ".git/index").write_bytes(b"DIRC" + b"\xff" * 100)
    agent.write({"x": "1"})
    assert collect(clone, ended=True)[1].uncommitted


def unknown_worktree(path: Path, secret: Repo) -> None:
    says("gitdir: fake\n")(path, secret)
    fake = path.parent / "fake"
    says("{top}/.git\n")(fake / "commondir", secret)
    says(f"{path}\n")(fake / "gitdir", secret)
    says("ref: refs/heads/main\n")(fake / "HEAD", secret)


STRANGERS: list[tuple[str, Break]] = [
    (".git", link(".git")),
    (".git", says("gitdir: {top}/.git\n")),
    (".git", says("gitdir: /nowhere\n")),
    (".git", says("nothing of the kind")),
    (".git", pipe),
    (".git", unknown_worktree),
    (".git/commondir", says("{top}/.git\n")),
    (".git/objects", link(".git/objects")),
    (".git/objects/pack", link(".git/objects/pack")),
    (".git/objects/info/alternates", says("{top}/.git/objects\n")),
    (".git/refs", link(".git/refs")),
    (".git/config", pipe),
    (".git/index", link(".git/index")),
]


@pytest.mark.parametrize(("part", "breaks"), STRANGERS)
def test_a_repository_that_leads_elsewhere_is_not_cloned(
    user: Repo, secret: Repo, tmp_path: Path, part: str, breaks: Break
) -> None:
    breaks(user.top / part, secret)
    with pytest.raises(WorkspaceError):
        create(tmp_path / "state/ship", open_repository(user.top), "ship")
    assert not (tmp_path / "state/ship/work").exists()
