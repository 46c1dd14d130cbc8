"""The user's own git on a remote: with their settings, SSH agent, credential helpers and proxies.

It runs in a repository of ours, so that nothing of the user's repository or of the bottle configures it. A
remote's URL is passed in a variable: it may have a password in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from bot_bottle.errors import WorkspaceError
from bot_bottle.git.remotes import SCHEMES, Remote, without_credentials
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed, Completed
from bot_bottle.host.text import printable_lines
from bot_bottle.workspace.git import program

_FETCH = 900.0  # seconds; the first fetch may be a whole repository
_PUSH = 900.0
_SHOWN = 2000  # characters of git's message
_NAME = "upstream"

_OUTSIDE = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),  # goes over every protocol.*.allow
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C",
}
_OF_USER = ("GIT_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM")
_OF_TRANSPORT = ("GIT_SSH", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_")

# settings of a user that would push more than is asked for, or run a program of their repositories
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.pushOption": "",  # clears the list
    "push.recurseSubmodules": "no",
    "submodule.recurse": "false",
}
_HEAD = re.compile(r"ref: (refs/heads/\S+)\tHEAD")


class Upstream(Struct, frozen=True):
    """A remote, as seen from a git folder of ours. `objects` are variables that name more object stores."""

    remote: Remote
    folder: Path

    def fetch(self, *refspecs: str) -> None:
        """Fetch references, and remove those that are gone. Raises WorkspaceError with git's message."""
        options = ("-q", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        self._run("fetch", _FETCH, *options, "--", _NAME, *refspecs)

    def head(self) -> str:
        """Return the branch that the remote's HEAD names, "" for none. Raises WorkspaceError."""
        done = self._run("ls-remote", _FETCH, "-q", "--symref", "--", _NAME, "HEAD")
        found = _HEAD.match(done.stdout.decode("utf-8", "surrogateescape"))
        return found[1] if found else ""

    def push(self, commits: Mapping[str, str], objects: Mapping[str, str]) -> str:
        """Push commits to references, by their names: all or none, never by force. Returns git's messages.

        `objects` are variables that name the stores of the objects. Raises WorkspaceError.
        """
        options = ("--atomic", "--porcelain", "--no-verify", "--no-follow-tags", "--no-signed")
        refspecs = [f"{commit}:{name}" for name, commit in commits.items()]
        done = self._run("push", _PUSH, *options, "--", _NAME, *refspecs, extra=objects)
        return _words(done)

    def _run(self, verb: str, limit: float, *args: str, extra: Mapping[str, str] | None = None) -> Completed:
        try:
            return process.run(
                [program(), "--no-pager", verb, *args],
                timeout=limit,
                env=self._environment(extra or {}),
                cwd=self.folder,
            )
        except CommandFailed as error:
            raise WorkspaceError(
                f"git {verb} failed for the remote {self.remote.name}",
                why=_words(error.done) or without_credentials(error.message),
            ) from error

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if _is_kept(name)}
        # git starts its parts by name
        env["PATH"] = ":".join(part for part in env.get("PATH", os.defpath).split(":") if part[:1] == "/")
        urls = {f"remote.{_NAME}.url": self.remote.fetch, f"remote.{_NAME}.pushurl": self.remote.push}
        settings = {**_SETTINGS, **urls}
        env |= {**_OUTSIDE, "GIT_DIR": str(self.folder), "GIT_CONFIG_COUNT": str(len(settings))}
        for number, (key, value) in enumerate(settings.items()):
            env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return {**env, **extra}


def _is_kept(name: str) -> bool:
    """Return whether the user's git gets a variable of ours: none that says which repository it works on."""
    return not name.startswith("GIT_") or name in _OF_USER or name.startswith(_OF_TRANSPORT)


def _words(done: Completed) -> str:
    """Return what git and the remote said, without credentials, without what moves a terminal's cursor."""
    refused = [line for line in done.text.splitlines() if line.startswith("!")]
    said = done.stderr.decode("utf-8", "replace").replace("\r", "\n").splitlines()
    lines = [*said, *(_ref_status(line) for line in refused)]
    text = "\n".join(line.rstrip() for line in lines if line.strip())
    return printable_lines(without_credentials(text))[-_SHOWN:]


def _ref_status(line: str) -> str:
    """Return a line of `git push --porcelain` for a refused reference as a sentence."""
    _, _, rest = line.partition("\t")
    place, _, reason = rest.partition("\t")
    return f"{place.partition(':')[2].removeprefix('refs/heads/')}: {reason}"
