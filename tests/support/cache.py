"""An artifact of the cache found, or made by a function, as who packs does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bot_bottle.cache.cache import Cache
from bot_bottle.cache.entry import Entry
from bot_bottle.cache.key import Key
from bot_bottle.image.spec import Digest


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
