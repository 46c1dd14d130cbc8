"""Real git repositories, as their users and agents work in them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WHO = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Somebody"), ("EMAIL", "somebody@example.com"))
}


@dataclass(frozen=True)
class Repo:
    """A repository as its user (`uid`, if given) works in it: git with all of its settings in force."""

    top: Path
    uid: int | None = None

    def git(self, *args: str | Path, input: bytes = b"", check: bool = True, **env: str) -> str:
        done = subprocess.run(
            ["git", *args],
            cwd=self.top,
            env={**os.environ, **WHO, **env},
            input=input,
            capture_output=True,
            user=self.uid,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def write(self, content: Mapping[str, str | bytes]) -> None:
        for name, text in content.items():
            path = self.top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self, content: Mapping[str, str | bytes] | None = None, message: str = "work") -> str:
        self.write(content or {})
        self.git("add", "--all", "--force")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def shows(self, reference: str, path: str) -> str:
        return self.git("show", f"{reference}:{path}")

    def refs(self, pattern: str = "refs") -> list[str]:
        return self.git("for-each-ref", "--format=%(refname)", pattern).splitlines()

    def names(self, reference: str) -> list[str]:
        found = self.git("ls-tree", "-r", "-z", "--name-only", reference).split("\0")
        return [name for name in found if name]


def make_repo(top: Path, *options: str) -> Repo:
    top.mkdir(parents=True, exist_ok=True)
    repo = Repo(top)
    repo.git("init", "-q", "-b", "main", *options)
    return repo
