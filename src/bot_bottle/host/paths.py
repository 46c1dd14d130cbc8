"""Where bot-bottle keeps its files. Nothing here makes a folder.

The user's folders are those of the XDG Base Directory Specification, by which a variable with a relative path
is ignored. So is a HOME that is not an absolute path: the current folder is nobody's home.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from bot_bottle.errors import CacheError
from bot_bottle.host.text import printable

_XDG = ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR")

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
    """Return the cache folder: `$BOT_BOTTLE_CACHE_DIR`, else `bot-bottle` in the user's cache folder.

    Raises CacheError where neither can be said.
    """
    mac = "Library/Caches"
    return _named("BOT_BOTTLE_CACHE_DIR") or _of_user("XDG_CACHE_HOME", ".cache", mac)


def state_dir() -> Path:
    """Return the folder of lasting state: `$BOT_BOTTLE_STATE_DIR`, or one in the user's state folder.

    Raises CacheError where neither can be said.
    """
    mac = "Library/Application Support"
    return _named("BOT_BOTTLE_STATE_DIR") or _of_user("XDG_STATE_HOME", ".local/state", mac)


def config_dir() -> Path:
    """Return the folder of the user's own configuration: `bot-bottle` in the user's configuration folder.

    Raises CacheError where it cannot be said.
    """
    return _of_user("XDG_CONFIG_HOME", ".config", "Library/Application Support")


def home_dir() -> Path | None:
    """Return the user's home folder: `$HOME`, else that of the user database; None where neither is one."""
    given = os.environ.get("HOME", "")
    if not _is_absolute(given):
        try:
            given = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a number without a user, as in containers
            return None
    return Path(given) if _is_absolute(given) else None


def correct_environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return the environment for a program (None: ours) without the folders that are none.

    Programs do not look as we do: docker makes a HOME that is relative in the current folder, and podman does
    not work where TMPDIR is not a folder.
    """
    clean = dict(os.environ if env is None else env)
    for name in (f"XDG_{each}" for each in _XDG):
        if name in clean and not _is_absolute(clean[name]):
            del clean[name]
    if "TMPDIR" in clean and not (_is_absolute(clean["TMPDIR"]) and _is_folder(clean["TMPDIR"])):
        del clean["TMPDIR"]
    if "HOME" in clean and not _is_absolute(clean["HOME"]):
        del clean["HOME"]
        if home := home_dir():
            clean["HOME"] = str(home)
    return clean


def _named(variable: str) -> Path | None:
    """Return the folder that a variable of ours names, if it is set."""
    given = os.environ.get(variable)
    if not given:
        return None
    if not _is_absolute(given):  # also ~ that no shell has replaced
        raise CacheError(
            f"{variable} is not an absolute path: {printable(given, limit=200)!r}",
            why="bottles would be in another folder for each folder that bottle is started in",
            next_step=f"set {variable} to a path that begins with /",
        )
    return Path(given)


def _of_user(variable: str, beside_home: str, on_mac: str) -> Path:
    """Return our folder in the user's folder of a kind."""
    given = os.environ.get(variable, "")
    if _is_absolute(given):
        return Path(given) / "bot-bottle"
    home = home_dir()
    if home is None or not _is_folder(home):
        reason = "HOME is not set, and the user has none" if home is None else f"{home} is not a folder"
        raise CacheError(
            "there is no home folder to keep the cache and the bottles in",
            why=reason,
            next_step="set HOME, or BOT_BOTTLE_CACHE_DIR and BOT_BOTTLE_STATE_DIR",
        )
    return home / (on_mac if sys.platform == "darwin" else beside_home) / "bot-bottle"


def bottle_dir(name: str) -> Path:
    """Return the folder of one bottle, by its name."""
    return state_dir() / "bottles" / name


def receipts_dir() -> Path:
    """Return the folder of the records of runs."""
    return state_dir() / "receipts"


def pulled_dir() -> Path:
    """Return the folder of records of signed artifacts that were seen in registries."""
    return state_dir() / "pulled"


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


def agents_dir() -> Path:
    """Return the folder of agents' packages, and of ids of images with an agent."""
    return (_products.get() or cache_dir()) / "agents"


def packages_dir() -> Path:
    """Return the folder of files of package registries."""
    return cache_dir() / "packages"


def layers_dir() -> Path:
    """Return the folder of layers that an engine has pushed once."""
    return (_products.get() or cache_dir()) / "layers"


def downloads_dir() -> Path:
    """Return the folder of unfinished downloads of artifacts, on the artifacts' file system."""
    return (_products.get() or cache_dir()) / "downloads"


def runs_dir() -> Path:
    """Return the folder that holds one folder for each command under way."""
    return cache_dir() / "runs"


def emulation_dir() -> Path:
    """Return the folder of the emulated host's kernel and disk."""
    return cache_dir() / "emulation"


def machines_dir() -> Path:
    """Return smolvm's folder: microVMs, and artifacts that it has unpacked."""
    return cache_dir() / "machines"


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


def _is_folder(path: str | Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises where it may not look
