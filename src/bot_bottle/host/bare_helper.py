"""Helpers that start in milliseconds: a Python without site packages, which loads one module of ours.

Such a module imports little. Its `main` finds a JSON document in the first argument.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bot_bottle

_PROGRAM = """\
import sys
sys.path.append(sys.argv.pop(1))
from {module} import main
main()
"""


def bare_helper(module: str, asked: Mapping[str, Any]) -> list[str]:
    """Return the command line of such a helper; `asked` is its document."""
    source = str(Path(bot_bottle.__file__).parents[1])
    program = _PROGRAM.format(module=module)
    return [sys.executable, "-I", "-S", "-B", "-c", program, source, json.dumps(asked)]
