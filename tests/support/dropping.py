"""bottle with a smolvm that ignores options: `python -m tests.support.dropping CHANGE ARGUMENTS...`.

CHANGE is a JSON document: of `drop`, all options with these names are left out of `machine create`, with
their values; what is in `add` is put in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from bot_bottle.backend.microvm import bottle as smolmachines
from bot_bottle.cli.main import run
from bot_bottle.vm.smolvm import create_argv


def _changed(change: dict[str, list[str]], argv: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in change.get("drop", []):
            next(words)
        else:
            kept += change.get("add", []) if word == "--" else []
            kept.append(word)
    return tuple(kept)


if __name__ == "__main__":
    _change = json.loads(sys.argv[1])

    def _ignoring(*args: Any, **options: Any) -> tuple[str, ...]:
        return _changed(_change, create_argv(*args, **options))

    vars(smolmachines)["create_argv"] = _ignoring
    sys.exit(run(sys.argv[2:]))
