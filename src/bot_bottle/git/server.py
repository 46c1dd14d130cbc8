"""The git server of one bottle: smart HTTP on a socket, for the remotes that the bottle may push to.

A helper process (see `host.helper_process`) with one argument, its settings; its folder is the current one.
Requests reach it through the bottle's proxy. `git http-backend` answers them from a quarantine for each
remote. What is pushed is checked in git's pre-receive hook, and pushed on there, so that the bottle's push is
accepted only when the remote has accepted it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bot_bottle.errors import BottleError
from bot_bottle.git import push_log
from bot_bottle.git.checks import HEADS, Refusal, Update, check_objects, check_references, parse_updates
from bot_bottle.git.hook import Answer, Question, answering, write_hook
from bot_bottle.git.http import listen
from bot_bottle.git.quarantine import Quarantine, open_quarantine
from bot_bottle.git.remotes import Remote
from bot_bottle.git.rules import PushRules, load_rules
from bot_bottle.host import process_tree
from bot_bottle.host.rundir import RunDir
from bot_bottle.host.text import printable
from bot_bottle.workspace.git import Git


class Repositories:
    """The quarantines of a bottle's remotes, made when they are first asked for."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self._remotes = {each["name"]: Remote(**each) for each in config["remotes"]}
        self._rules: PushRules = load_rules(config["rules"])
        self._folder = Path(config["folder"])
        self._project = Path(config["project"])
        self._bottle = config["bottle"]
        self._hooks = write_hook(folder)
        self._opened: set[str] = set()
        self._log = folder / push_log.NAME

    @property
    def names(self) -> list[str]:
        """The names of the remotes."""
        return sorted(self._remotes)

    @property
    def largest(self) -> int:
        """The most bytes of a push."""
        return self._rules.largest

    def quarantine(self, name: str) -> Quarantine:
        """Return the quarantine of a remote, which may not have been made."""
        return Quarantine(self._folder / f"{name}.git", self._remotes[name])

    def longer(self, path: str) -> str | None:
        """Return the URL that begins as a remote's, by what git made of it; "" if that is not one of HTTP.

        None for a path that does not begin as a remote.
        """
        name = max((name for name in self._remotes if path.startswith(f"/{name}")), key=len, default=None)
        if name is None:
            return None
        remote = self._remotes[name]
        urls = (remote.shown_fetch, remote.shown)
        found = next((url for url in urls if urlsplit(url).scheme in ("https", "http")), "")
        return found and found + path.removeprefix(f"/{name}")

    def refresh(self, name: str) -> None:
        """Fetch into a quarantine what the remote has. Raises WorkspaceError."""
        made = self.quarantine(name)
        with made.locked():
            if name not in self._opened:
                open_quarantine(made, self._project, self._hooks, self.largest)
                self._opened.add(name)
            made.refresh(keep_held=self._rules.hold)

    def receive(self, question: Question) -> Answer:
        """Check a push and push it on, or leave it to the user; return whether it is accepted.

        It is called while the quarantine is locked for the push.
        """
        name = question.repository.name.removesuffix(".git")
        updates = parse_updates(question.updates)
        try:
            if question.repository.parent != self._folder or name not in self._remotes:
                raise Refusal("it is not a repository of this bottle")
            lines = self._accept(self.quarantine(name), updates, question)
        except (Refusal, BottleError) as error:
            if isinstance(error, Refusal):
                lines = list(error.lines)
            else:
                lines = [error.message, *error.why.splitlines()]
            push_log.write(self._log, name, updates, "refused", "; ".join(lines))
            return False, lines
        push_log.write(self._log, name, updates, "held" if self._rules.hold else "pushed")
        return True, lines

    def _accept(self, made: Quarantine, updates: Sequence[Update], question: Question) -> list[str]:
        check_references(updates, self._rules)
        received = Git(made.folder, extra={**made.git.extra, **question.objects})
        check_objects(received, updates, made.references(HEADS), self._rules)
        branches = printable(", ".join(each.branch for each in updates), limit=500)
        if self._rules.hold:
            return [f"{branches}: held for the user, who pushes it on with: bottle forward {self._bottle}"]
        commits = {each.name: each.new for each in updates}
        said = made.upstream.push(commits, question.objects)
        return [*said.splitlines(), f"{branches}: pushed to {made.remote.shown}"]


def main() -> None:
    """Serve until terminated."""
    os.umask(0o077)
    config = json.loads(Path(sys.argv[1]).read_text())
    here = Path.cwd()
    repositories = Repositories(config, here)
    with process_tree.observe_starts(RunDir(Path(config["run"])).note), answering(repositories.receive):
        listen(repositories, here).serve_forever()
