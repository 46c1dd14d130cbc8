"""bot-bottle: a repository's Dockerfile to a command running inside a microVM made from it.

The command line is made of the functions offered here:

- `build(source)` gives the id of an image, built from a Dockerfile if need be;
- `convert(source)` gives its `.smolmachine` artifact, made or from the cache;
- `run(spec)` runs a command in a microVM booted from it and gives the exit status;
- `ephemeral_registry()` serves local images to tools that take only registry references.

Importing the package does nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot_bottle.artifacts import build, convert
    from bot_bottle.bottle import Plan, launch, prepare, run
    from bot_bottle.conversion import Conversion
    from bot_bottle.errors import BottleError
    from bot_bottle.image.engine import BuildRequest
    from bot_bottle.registry.ephemeral import ephemeral_registry
    from bot_bottle.source import Source
    from bot_bottle.spec import BottleSpec

__version__ = "0.1.0"

_HOMES = {
    "BottleError": "errors",
    "BottleSpec": "spec",
    "BuildRequest": "image.engine",
    "Conversion": "conversion",
    "Plan": "bottle",
    "Source": "source",
    "build": "artifacts",
    "convert": "artifacts",
    "ephemeral_registry": "registry.ephemeral",
    "launch": "bottle",
    "prepare": "bottle",
    "run": "bottle",
}

__all__ = [
    "BottleError",
    "BottleSpec",
    "BuildRequest",
    "Conversion",
    "Plan",
    "Source",
    "build",
    "convert",
    "ephemeral_registry",
    "launch",
    "prepare",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"bot_bottle.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bot_bottle' has no attribute {name!r}")
