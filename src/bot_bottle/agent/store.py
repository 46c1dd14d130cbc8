"""The agents' packages in the cache: listed, and removed."""

from __future__ import annotations

import json
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from bot_bottle.agent.layer import ABOUT, FILE
from bot_bottle.host import paths
from bot_bottle.host.files import read_regular
from bot_bottle.host.locks import try_lock_file
from bot_bottle.host.signals import defer_signals

_NAME = re.compile(r"[0-9a-f]{64}(\.partial)?\Z")
_LIMIT = 1 << 16  # bytes of what is said of a layer


class Stored(Struct, frozen=True):
    """A layer in the cache: of which agent, its size (bytes), when it was used (seconds since 1970)."""

    path: Path
    name: str
    version: str
    size: int
    last_used: float


def stored() -> list[Stored]:
    """Return the layers in the cache, the most recently used first."""
    return sorted(filter(None, map(_read, _folders())), key=lambda each: each.last_used, reverse=True)


def prune(older_than: float | None, *, everything: bool, dry_run: bool) -> list[Stored]:
    """Remove the layers that are older than so many seconds, or all; and what killed commands left.

    Return what was removed, or would be. One that is being made is not touched.
    """
    removed = []
    for folder in _folders():
        with try_lock_file(folder.with_suffix(".lock")) as free:
            found = _read(folder)
            old = found is not None and older_than is not None and found.last_used < time.time() - older_than
            if not free or not (everything or old or found is None):
                continue
            if not dry_run:
                with defer_signals():
                    shutil.rmtree(folder, ignore_errors=True)
            removed += [found] if found is not None else []
    return removed


def _folders() -> list[Path]:
    try:
        return [path for path in paths.agents_dir().iterdir() if _NAME.match(path.name)]
    except OSError:
        return []


def _read(folder: Path) -> Stored | None:
    """Return what is said of a layer; None for one that is not complete."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        about = json.loads(read_regular(folder / ABOUT, _LIMIT)[0])
        size = (folder / FILE).stat().st_size
        size += sum(path.stat().st_size for path in folder.glob("*.segments"))
        used = folder.stat().st_mtime
        if folder.suffix != ".partial":
            return Stored(folder, str(about["agent"]), str(about["version"]), size, used)
    return None
