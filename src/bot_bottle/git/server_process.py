"""Starts the git server of a bottle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from bot_bottle.errors import SpecError, WorkspaceError
from bot_bottle.git import push_log
from bot_bottle.git.held import settle, write_project
from bot_bottle.git.remotes import SERVICE
from bot_bottle.git.spec import GitPush
from bot_bottle.host import paths, process
from bot_bottle.host.helper_process import PARENT, helper
from bot_bottle.host.progress import Progress
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.wait import wait_until
from bot_bottle.workspace.git import check_version, program

_TIMEOUT = 30.0  # seconds


def check_backend() -> None:
    """Check that git can serve repositories. Raises SpecError, WorkspaceError."""
    check_version()
    place = process.run([program(), "--exec-path"], timeout=15).text
    if not Path(place, "git-http-backend").exists():
        raise SpecError(
            "--git-push needs git http-backend, which is not installed",
            why=f"it is not in {place}",
            next_step="install git's package for servers (git-daemon in Alpine)",
        )


def held_folder(bottle: str) -> Path:
    """Return the folder of a bottle's quarantines where pushes are held, which outlive the bottle."""
    return paths.bottle_dir(bottle) / "held"


@contextmanager
def services(
    push: GitPush, bottle: str, run: RunDir, progress: Progress, facts: dict[str, Any]
) -> Iterator[dict[str, str]]:
    """Serve a bottle's remotes until the block ends; yield the services that its proxy needs for them.

    What is held outlives the block. What was pushed is put into `facts`, and printed. Raises WorkspaceError
    when the server does not start.
    """
    folder = held_folder(bottle) if push.rules.hold else run.folder("remotes")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_project(folder, push.project)
    try:
        with run_git_server(push, bottle, folder, run) as socket:
            yield {SERVICE: str(socket)}
    finally:
        facts["pushes"] = push_log.read(run.folder("git") / push_log.NAME)
        for line in push_log.describe(facts["pushes"], bottle):
            progress.note(line)
        settle(folder)


@contextmanager
def run_git_server(push: GitPush, bottle: str, folder: Path, run: RunDir) -> Iterator[Path]:
    """Run the server of a bottle's remotes until the block ends; yield the path of its socket.

    The quarantines are in `folder`. Raises WorkspaceError when the server does not start.
    """
    from bot_bottle.git.http import SOCKET  # only here, as above: it loads http.server

    here = run.folder("git")
    config = {
        "remotes": [asdict(remote) for remote in push.remotes],
        "rules": push.rules.described(),
        "project": str(push.project.resolve()),
        "bottle": bottle,
        "folder": str(folder),
        "run": str(run.path),
    }
    path = here / "settings.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))  # a URL may have a password
    words = here / "server.log"
    argv = helper("bot_bottle.git.server", path)
    env = {**os.environ, PARENT: str(os.getpid())}  # with proxies, which the user's git may need
    with (
        words.open("wb") as output,
        process.background(argv, env=env, cwd=here, output=output) as child,
    ):
        made = here / SOCKET
        wait_until(lambda: made.is_socket() or child.code is not None, _TIMEOUT)
        if not made.is_socket():
            raise WorkspaceError(
                "the bottle's git server did not start", why=words.read_text("utf-8", "replace")[-2000:]
            )
        yield made
