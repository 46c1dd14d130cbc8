"""Where bot-bottle keeps its files. Nothing here touches the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_products: ContextVar[Path | None] = ContextVar("products", default=None)


@contextmanager
def override_cache_dir(folder: Path) -> Iterator[None]:
    """Use another folder for artifacts, and for what is cached to make others, until the block ends."""
    token = _products.set(folder)
    try:
        yield
    finally:
        _products.reset(token)


def cache_dir() -> Path:
    """Return the cache folder: `$BOT_BOTTLE_CACHE_DIR`, else `bot-bottle` in the user's cache folder."""
    if override := os.environ.get("BOT_BOTTLE_CACHE_DIR"):
        return Path(override).absolute()
    import platformdirs

    return platformdirs.user_cache_path("bot-bottle", appauthor=False)


def state_dir() -> Path:
    """Return the folder of lasting state: `$BOT_BOTTLE_STATE_DIR`, or one in the user's state folder."""
    if override := os.environ.get("BOT_BOTTLE_STATE_DIR"):
        return Path(override).absolute()
    import platformdirs

    return platformdirs.user_state_path("bot-bottle", appauthor=False)


def bottle_dir(name: str) -> Path:
    """Return the folder of one bottle, by its name."""
    return state_dir() / "bottles" / name


def receipts_dir() -> Path:
    """Return the folder of the records of runs."""
    return state_dir() / "receipts"


def artifacts_dir() -> Path:
    """Return the folder of cached `.smolmachine` files."""
    return (_products.get() or cache_dir()) / "smolmachines"


def headers_dir() -> Path:
    """Return the cache of layer tar headers."""
    return (_products.get() or cache_dir()) / "headers"


def config_digests_dir() -> Path:
    """Return the folder of config digests of images that their engine names otherwise."""
    return (_products.get() or cache_dir()) / "config-digests"


def features_dir() -> Path:
    """Return the folder of ids of images with features, by what was installed."""
    return (_products.get() or cache_dir()) / "features"


def layers_dir() -> Path:
    """Return the folder of layers that an engine has pushed once."""
    return (_products.get() or cache_dir()) / "layers"


def runs_dir() -> Path:
    """Return the folder that holds one folder for each command under way."""
    return cache_dir() / "runs"


def emulation_dir() -> Path:
    """Return the folder of the emulated host's kernel and disk."""
    return cache_dir() / "emulation"


def machines_dir() -> Path:
    """Return smolvm's folder: microVMs, and artifacts that it has unpacked."""
    return cache_dir() / "machines"
