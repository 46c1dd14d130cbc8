"""Removal of entries from the cache, and of leftovers of dead processes."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bot_bottle.cache.entry import Entry, derived_paths, list_path, read_entry, record_path
from bot_bottle.cache.key import SUFFIX, stem_of
from bot_bottle.errors import CacheError
from bot_bottle.host.locks import try_lock
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step

_SCRAP = ".tmp"


class Pruned(Struct, frozen=True):
    """What prune removed, or would: entries and leftover files. `in_use` would have been removed too."""

    removed: tuple[Entry, ...]
    in_use: tuple[Entry, ...]
    leftovers: tuple[str, ...]

    @property
    def freed(self) -> int:
        """The size of the removed entries and of what was made from them, in bytes."""
        return sum(entry.total for entry in self.removed)


def names(folder: Path) -> list[str]:
    """Return the names in a cache folder that are the cache's own, in order; [] without the folder.

    Raises CacheError when it cannot be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir() if stem_of(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(
            f"cannot read {folder}",
            why=error.strerror or str(error),
            next_step=next_step(error, "set BOT_BOTTLE_CACHE_DIR to another folder"),
        ) from error


def remove(artifact: Path) -> None:
    """Remove an artifact, its record, its list of chunks and what was made from it."""
    with defer_signals():
        for path in (artifact, record_path(artifact), list_path(artifact)):
            path.unlink(missing_ok=True)
        remove_derived(artifact)


def remove_derived(artifact: Path) -> None:
    """Remove the files that were made from an artifact. One that is open can still be read."""
    for path in derived_paths(artifact):
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there. Links are removed, not followed."""
    with defer_signals():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sweep_scraps(folder: Path) -> None:
    """Remove the unfinished artifacts of processes that died while they made them."""
    for name in names(folder):
        if name.endswith(_SCRAP):
            _remove_leftover(folder, name, dry_run=False)


def prune(
    folder: Path,
    entries: Sequence[Entry],
    keep_bytes: int | None,
    older_than: float | None,
    *,
    dry_run: bool,
) -> Pruned:
    """Remove what Cache.prune describes."""
    removed, in_use = [], []
    total = sum(entry.total for entry in entries)
    oldest = time.time() - older_than if older_than is not None else None
    for entry in sorted(entries, key=lambda entry: entry.last_used):
        too_old = oldest is not None and entry.last_used < oldest
        too_much = keep_bytes is not None and total > keep_bytes
        if not (too_old or too_much):
            continue
        if _remove_entry(entry, dry_run=dry_run):
            removed.append(entry)
            total -= entry.total
        else:
            in_use.append(entry)
    gone = {entry.path.stem for entry in removed}
    leftovers = [
        name
        for name in sorted(names(folder), key=_order)
        if _remove_leftover(folder, name, dry_run=dry_run) and stem_of(name) not in gone
    ]
    return Pruned(tuple(removed), tuple(in_use), tuple(leftovers))


def _order(name: str) -> tuple[int, str]:
    """Return a sort key: first what makes other files leftovers, and the lock last."""
    order = (_SCRAP, SUFFIX, ".json", ".parts", ".erofs", ".erofs-sum", ".lock")
    return order.index(Path(name).suffix), name


def _remove_entry(entry: Entry, *, dry_run: bool) -> bool:
    with try_lock(entry.path) as free:
        if free and not dry_run:
            remove(entry.path)
        return free


def _remove_leftover(folder: Path, name: str, *, dry_run: bool) -> bool:
    """Remove a file that belongs to no entry and that no process uses; return whether it was one."""
    path = folder / name
    stem = stem_of(name)
    artifact = folder / f"{stem}{SUFFIX}"
    if not _is_leftover(path, artifact):
        return False
    with try_lock(folder / f"{stem}.lock") as idle, try_lock(path) as unused:
        # checked again: a moment ago its artifact may have been about to be published
        free = idle and (unused or path.suffix == ".lock") and _is_leftover(path, artifact)
        if free and not dry_run:
            discard(path)
        return free


def _is_leftover(path: Path, artifact: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if path.suffix == _SCRAP:
        return stat.S_ISDIR(mode)
    if not stat.S_ISREG(mode):
        return False  # not the cache's, which makes nothing else
    return read_entry(path) is None if path == artifact else not os.path.lexists(artifact)
