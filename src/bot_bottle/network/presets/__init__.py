"""Presets: named lists of entries for what many projects need.

Each is a file here, an entry a line, with `#` for comments. Entries have a port each, and methods where the
same host also accepts uploads.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from bot_bottle.errors import SpecError
from bot_bottle.host.text import printable

_FOLDER = Path(__file__).parent
_PREFIX = "preset:"
_SUFFIX = ".txt"


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    files = (path.name for path in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)))


def expand_preset(entry: str) -> tuple[str, ...]:
    """Return the entries of a preset for its name, with or without `preset:`; any other entry as it is.

    Raises SpecError for `preset:` with a name that there is not.
    """
    name = entry.strip().removeprefix(_PREFIX)
    if name in preset_names():
        lines = (_FOLDER / f"{name}{_SUFFIX}").read_text("utf-8").splitlines()
        return tuple(line for line in lines if line and not line.startswith("#"))
    if entry.strip().startswith(_PREFIX):
        raise SpecError(
            f"there is no preset {printable(name, limit=40)!r}",
            next_step=f"use one of {', '.join(preset_names())}, or name hosts",
        )
    return (entry,)
