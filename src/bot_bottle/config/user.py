"""The user's own configuration: `config.toml` in the user's configuration folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bot_bottle.config.file import read_toml
from bot_bottle.errors import CacheError
from bot_bottle.host import paths

NAME = "config.toml"
_PATHS = ("trust", "sign")


def read_user_config() -> tuple[Path, dict[str, Any]]:
    """Return the path of the user's configuration, and its settings by key; none without a file.

    Paths in it are relative to its folder, and may begin with ~/. Raises SpecError.
    """
    try:
        path = paths.config_dir() / NAME
    except CacheError:  # a user without a home has none
        return Path(NAME), {}
    if not os.path.lexists(path):
        return path, {}
    from bot_bottle.config.model import UserFile, parse_as

    content = parse_as(UserFile, read_toml(path), str(path)).cache.model_dump()
    found = {f"cache.{name}": value for name, value in content.items() if value is not None}
    for name in _PATHS:
        if (key := f"cache.{name}") in found:
            found[key] = path.parent / _expanded(found[key])
    return path, found


def _expanded(text: str) -> str:
    home = paths.home_dir()
    return f"{home}/{text[2:]}" if home and text.startswith("~/") else text
