"""The user's own folder as a workspace: which folders may be one, and what of it a bottle cannot change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bot_bottle.errors import WorkspaceError
from bot_bottle.host import paths
from bot_bottle.workspace.spec import Mount

_SYSTEM = ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")
_GIT = ".git"


def mount_of(folder: Path) -> Mount:
    """Return the mount of a folder. `.git` in it is read-only: hooks written there would run here.

    Raises WorkspaceError for a folder that a bottle must not have, or that is not the caller's.
    """
    folder = folder.resolve()
    _check(folder)
    entry = folder / _GIT
    if not os.path.lexists(entry):
        return Mount(folder)
    mode = entry.lstat().st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise WorkspaceError(
            f"{entry} is not used: it is neither a folder nor a file",
            why="it may lead to what is somebody else's",
        )
    return Mount(folder, kept=(_GIT,))


def _check(folder: Path) -> None:
    refusal = ""
    home = paths.home_dir()
    own = (paths.state_dir(), paths.cache_dir())
    if str(folder) in _SYSTEM or folder.is_relative_to("/proc") or folder.is_relative_to("/sys"):
        refusal = "system directory"
    elif home is not None and home.resolve().is_relative_to(folder):
        refusal = "it is your home folder, or contains it"
    elif any(path.resolve().is_relative_to(folder) for path in own):
        refusal = "bottle keeps its own files in it"
    elif not folder.is_dir():
        refusal = "it is not a folder"
    elif folder.stat().st_uid != os.geteuid():
        refusal = f"it belongs to another user (uid {folder.stat().st_uid})"
    if refusal:
        raise WorkspaceError(
            f"refusing to mount {folder}: {refusal}",
            next_step="use a folder of your own below it, or --workspace clone",
        )


def new_git_dirs(mount: Mount) -> list[str]:
    """Return a `.git` that was not in a mount before: git here would obey its configuration."""
    found = os.path.lexists(mount.source / _GIT) and _GIT not in mount.kept
    return [str(mount.source / _GIT)] if found else []
