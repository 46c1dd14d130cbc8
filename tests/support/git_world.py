"""A remote, its user's repository, and git as it is in a bottle, with the git server between them."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bot_bottle.git.held import write_project
from bot_bottle.git.remotes import find_remotes, variables
from bot_bottle.git.rules import PushRules
from bot_bottle.git.server_process import run_git_server
from bot_bottle.git.spec import GitPush
from bot_bottle.host import process_tree
from bot_bottle.host.rundir import run_dir
from bot_bottle.host.unix_sockets import connect
from tests.support.callers import git_context
from tests.support.images import copy_with_libraries
from tests.support.repos import WHO, Repo, make_repo


@contextmanager
def relayed(path: Path) -> Iterator[int]:
    """Yield a TCP port of the loopback that leads to a Unix socket, in place of a bottle's proxy."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=_relay, args=(client, path), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _relay(client: socket.socket, path: Path) -> None:
    with client, suppress(OSError), connect(path.parent, path.name) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Said:
    """How a git command in the bottle ended, and what it wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Inside(Repo):
    """A repository in the bottle. Its git has no settings but the bottle's variables."""

    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, *args: str, input: bytes = b"", **env: str) -> Said:
        """Run git as in the bottle, and return how it ended."""
        done = subprocess.run(
            ["git", *args],
            cwd=self.top,
            env={**self.env, **env},
            input=input,
            capture_output=True,
            timeout=300,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "replace"))

    def pushes(self, *args: str) -> str:
        """Push, which succeeds; return what git wrote."""
        said = self.run("push", *args)
        assert said.code == 0, said
        return said.err

    def is_refused(self, *args: str) -> str:
        """Push, which fails; return what git wrote."""
        said = self.run("push", *args)
        assert said.code != 0, said
        return said.err


@dataclass(frozen=True)
class GitWorld:
    """All sides: the remote's bare repository, the user's, and one in the bottle."""

    remote: Repo
    user: Repo
    inside: Inside
    run: Path
    quarantine: Path
    socket: Path
    server: int


def make_remote(folder: Path) -> tuple[Repo, Repo]:
    """Make a bare repository and the user's clone of it, which has a branch of its own besides."""
    template = _template()
    for name in ("remote.git", "user"):
        shutil.copytree(template / name, folder / name)
    remote, user = Repo(folder / "remote.git"), Repo(folder / "user")
    user.git("remote", "set-url", "origin", remote.top)
    return remote, user


@cache
def _template() -> Path:
    """Make both in a folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="bot-bottle-git-"))
    atexit.register(shutil.rmtree, folder)
    first = make_repo(folder / "first")
    first.commit({"README": "one\n", ".github/workflows/ci.yml": "on: push\n"})
    first.git("tag", "-a", "v1", "-m", "first")
    remote = Repo(folder / "remote.git")
    first.git("clone", "-q", "--bare", str(first.top), str(remote.top))
    first.git("clone", "-q", str(remote.top), str(folder / "user"))
    user = Repo(folder / "user")
    user.git("switch", "-q", "-c", "private")
    user.commit({"private": "not for the bottle\n"})
    user.git("switch", "-q", "main")
    return folder


@contextmanager
def git_world(
    folder: Path, rules: PushRules, url: str = "", *, held: Path | None = None
) -> Iterator[GitWorld]:
    """Yield a world in a folder whose server runs; `url` is another one of the remote.

    `held` is the folder of the quarantines.
    """
    if not (folder / "remote.git").exists():
        make_remote(folder)
    remote, user = Repo(folder / "remote.git"), Repo(folder / "user")
    if url:
        user.git("remote", "set-url", "origin", url)
    with ExitStack() as stack:
        run = stack.enter_context(run_dir())
        remotes = find_remotes(user.top, ["origin"])
        held = held or folder / "held"
        held.mkdir(parents=True, exist_ok=True)
        write_project(held, user.top)
        push = GitPush(user.top, remotes, rules)
        started: list[int] = []
        with process_tree.observe_starts(started.append):
            socket_path = stack.enter_context(run_git_server(push, "blue", held, run))
        port = stack.enter_context(relayed(socket_path))
        env = {
            **{name: os.environ[name] for name in ("PATH",)},
            **WHO,
            "HOME": str(folder / "nobody"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
            **variables(remotes, f"http://127.0.0.1:{port}", {}),
        }
        top = folder / "inside"
        top.mkdir(exist_ok=True)
        yield GitWorld(
            remote, user, Inside(top, env=env), run.path, held / "origin.git", socket_path, started[0]
        )


def cloned(world: GitWorld) -> Inside:
    """Clone the remote in the bottle by its own URL, and switch to a branch that may be pushed."""
    url = world.user.git("remote", "get-url", "origin")
    said = world.inside.run("clone", "-q", url, "clone")
    assert said.code == 0, said
    clone = Inside(world.inside.top / "clone", env=world.inside.env)
    assert clone.run("switch", "-q", "-c", "bottle/blue").code == 0
    return clone


def git_client_context(folder: Path) -> Path:
    """Make a folder into a build context with a shell and a git that can use HTTP."""
    context = git_context(folder)
    where = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    copy_with_libraries(f"{where}/git-remote-http", context / "rootfs")
    return context
