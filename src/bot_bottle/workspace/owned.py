"""Run a program to which the caller's files are those of another user, such as the bottle's.

It runs in a user namespace (user_namespaces(7)) in which the caller's number has become that user's: files of
the caller look like that user's, and what it makes is the caller's. Whoever calls needs no privileges for it,
and root's are gone: in the namespace and out of it the program has no capability at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import process
from bot_bottle.host.process import CommandFailed

# flags of a file system that a namespace may not take off again: they have to be repeated
_FLAGS = {
    os.ST_NOSUID: "nosuid",
    os.ST_NODEV: "nodev",
    os.ST_NOEXEC: "noexec",
    os.ST_NOATIME: "noatime",
    os.ST_NODIRATIME: "nodiratime",
    os.ST_RELATIME: "relatime",
}

# binds each path onto itself, unchangeable: PATH OPTIONS ... -- PROGRAM
_KEEP = """\
while [ "$1" != -- ]; do
  mount --no-canonicalize --bind -- "$1" "$1" && mount --no-canonicalize -o "$2" -- "$1" || exit 125
  shift 2
done
shift
exec "$@"
"""


def as_user(uid: int, gid: int, kept: Sequence[Path] = ()) -> tuple[str, ...]:
    """Give what to put before a command line for its program to run so.

    The program cannot change what is `kept`, whatever its user may do. Raises WorkspaceError when this
    machine does not allow it.
    """
    mapped = ("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--")
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")
    prefix: tuple[str, ...] = (*mapped, *bare)
    if kept:
        places = [part for path in kept for part in (str(path), _options(path))]
        own = ("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", _KEEP, "sh")
        prefix = (*own, *places, "--", *prefix)
    try:
        process.run([*prefix, "true"], timeout=30)
    except CommandFailed as error:
        raise WorkspaceError(
            "this machine does not let you show your files as the bottle's",
            why=error.why,
            next_step="allow user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
        ) from error
    return prefix


def _options(path: Path) -> str:
    flags = os.statvfs(path).f_flag
    return ",".join(["remount,bind,ro", *(name for flag, name in _FLAGS.items() if flags & flag)])
