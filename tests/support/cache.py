"""Cache folders: what several have in common, and an artifact found or made by a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bot_bottle.cache.cache import Cache
from bot_bottle.cache.entry import Entry
from bot_bottle.cache.key import Key
from bot_bottle.image.spec import Digest
from tests.support.engines import CHECKOUT

FOLDER = CHECKOUT / ".cache" / "tests"  # of caches that last from run to run


def share(cache: Path, *names: str) -> None:
    """Let a cache folder have parts in common with others: what bottle prepares there, under a lock."""
    cache.mkdir(parents=True, exist_ok=True)
    for name in names:
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (cache / name).symlink_to(os.path.relpath(FOLDER / name, cache))


def parts(cache: Path) -> tuple[Path, ...]:
    """The folder and those that it has in common with others: who searches it follows no links."""
    return (cache, *(path for path in cache.iterdir() if path.is_symlink()))


def find_or_make(
    cache: Cache,
    key: Key,
    make: Callable[[Path], Digest | None],
    *,
    source: str,
    on_wait: Callable[[str], None],
    on_damage: Callable[[str], None] | None = None,
) -> Entry:
    """Return the artifact of `key`, made by `make` where it is not there."""
    if entry := cache.find(key):
        return entry
    with cache.locked(key, source=source, on_wait=on_wait, on_damage=on_damage) as slot:
        return slot.entry or slot.publish(make(slot.path))
