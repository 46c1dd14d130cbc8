"""Small records in the state folder: JSON that only the user can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot_bottle.errors import BottleError
from bot_bottle.host.files import write_private
from bot_bottle.host.signals import defer_signals
from bot_bottle.host.system_errors import next_step

_ADVICE = "make it writable, or set BOT_BOTTLE_STATE_DIR to another folder"


def store_record(path: Path, document: Mapping[str, Any], kind: type[BottleError], message: str) -> None:
    """Write a record, and make its folder if it is missing. Raises an error of `kind` with `message`."""
    try:
        with defer_signals():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise kind(message, why=str(error), next_step=next_step(error, _ADVICE)) from error
