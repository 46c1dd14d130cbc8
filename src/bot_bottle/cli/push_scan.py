"""The search of an artifact for secrets before it is pushed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot_bottle import api as artifacts
from bot_bottle.cli.commands.scan import shown
from bot_bottle.errors import LeakError
from bot_bottle.host.progress import Progress


def scan_for_push(exclude: Sequence[str], path: Path, progress: Progress) -> str:
    """Return the result of a search for secrets, for the receipt. Raises LeakError if there are some."""
    found = artifacts.scan(path, exclude=exclude, progress=progress)
    if found:
        raise LeakError(
            "the artifact is not pushed: there seem to be secrets in it",
            why=shown(path.name, found),
            next_step="remove them from the image, or ignore what is none with --exclude PATTERN",
        )
    return f"nothing found, without {' '.join(exclude)}" if exclude else "nothing found"
