"""Errors of the system: what they mean for bottle, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from bot_bottle.errors import BottleError, CacheError, DiskFullError, UsageError
from bot_bottle.host import paths
from bot_bottle.host.files import disk_full

_FREE_SPACE = "bottle cache prune, or free some space"
_OTHER_FOLDERS = "make it yours, or name another with BOT_BOTTLE_CACHE_DIR and BOT_BOTTLE_STATE_DIR"
_LOCAL_FOLDERS = "name folders on a local file system with BOT_BOTTLE_CACHE_DIR and BOT_BOTTLE_STATE_DIR"
_NEXT_STEPS = {
    errno.EMFILE: "raise the limit of open files: ulimit -n 1024",
    errno.ENFILE: "end other programs: the system has no more files to open",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f unlimited), or use another file system",
    errno.ENOMEM: "free some memory, or raise the limit: ulimit -v unlimited",
    errno.EAGAIN: "raise the limit of processes: ulimit -u unlimited",
    errno.EIO: "see what the system's log says of the disk: dmesg",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR), _OTHER_FOLDERS),
    errno.ENAMETOOLONG: "name shorter paths, also with BOT_BOTTLE_CACHE_DIR and BOT_BOTTLE_STATE_DIR",
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ESTALE, errno.ETIMEDOUT), _LOCAL_FOLDERS),
}


ALLOW_NAMESPACES = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)"
)
"""The next step where a machine does not let a user make user namespaces."""


def next_step(error: OSError, otherwise: str) -> str:
    """Return what to do about an error with a folder of ours; `otherwise` where nothing special is known."""
    found = _NEXT_STEPS.get(error.errno or 0, _OTHER_FOLDERS)
    return otherwise if found == _OTHER_FOLDERS else found


def folder_error(message: str, folder: Path, error: OSError) -> CacheError | DiskFullError:
    """Return the error of bottle for one with a folder in the cache."""
    if disk_full(error):
        return DiskFullError(f"no room left in {folder}", why=str(error), next_step=_FREE_SPACE)
    otherwise = "make it writable, or name another with BOT_BOTTLE_CACHE_DIR"
    return CacheError(message, why=str(error), next_step=next_step(error, otherwise))


def explained(error: Exception) -> BottleError | None:
    """Return the message for an error that the system is the cause of; None for what is a bug in bottle."""
    if disk_full(error):
        return DiskFullError("the disk is full", why=str(error), next_step=_FREE_SPACE)
    if isinstance(error, FileNotFoundError) and not _is_somewhere():
        advice = "cd to another folder"
        return UsageError("the current folder does not exist any more", next_step=advice)
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, "no memory left")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        error = OSError(errno.EAGAIN, "no thread can be started")
    if not isinstance(error, OSError) or error.errno not in _NEXT_STEPS:
        return None
    kind = CacheError if _is_ours(error.filename) else BottleError
    place = error.filename if isinstance(error.filename, str) else ""
    reason = error.strerror or str(error)
    advice = _NEXT_STEPS[error.errno]
    if advice == _OTHER_FOLDERS and kind is not CacheError:
        advice = "see whose it is, and whether you may write there"
    if not place:
        return kind(reason[:1].lower() + reason[1:], next_step=advice)
    return kind(f"cannot use {place}", why=reason, next_step=advice)


def _is_somewhere() -> bool:
    """Return whether the current folder is still there."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _is_ours(name: str | bytes | int | None) -> bool:
    """Return whether a path is in a folder that bottle keeps things in: another user's, after sudo say."""
    try:
        folders = (paths.cache_dir(), paths.state_dir())
    except BottleError:
        return False
    return isinstance(name, str) and any(Path(name).is_relative_to(folder) for folder in folders)
