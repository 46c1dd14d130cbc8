"""bot-bottle: runs a command in a microVM made from a repository's Dockerfile.

The command line uses the functions here:

- `build(source)` returns the id of an image, built from a Dockerfile if needed;
- `convert(source)` returns its `.smolmachine` artifact, made or from the cache;
- `run(spec)` runs a command in a microVM booted from it and returns the exit status;
- `ephemeral_registry()` serves local images to tools that only accept registry references.

Importing the package does nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot_bottle.api import build, convert
    from bot_bottle.bottle.run import Plan, launch, prepare, run
    from bot_bottle.bottle.spec import BottleSpec
    from bot_bottle.engine.engine import BuildRequest
    from bot_bottle.engine.source import Source
    from bot_bottle.errors import BottleError
    from bot_bottle.pack.converter import Conversion
    from bot_bottle.registry.ephemeral import ephemeral_registry

_HOMES = {
    "BottleError": "errors",
    "BottleSpec": "bottle.spec",
    "BuildRequest": "engine.engine",
    "Conversion": "pack.converter",
    "Plan": "bottle.run",
    "Source": "engine.source",
    "build": "api",
    "convert": "api",
    "ephemeral_registry": "registry.ephemeral",
    "launch": "bottle.run",
    "prepare": "bottle.run",
    "run": "bottle.run",
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
    if name == "__version__":
        return importlib.import_module("bot_bottle.version").VERSION
    if name in _HOMES:
        return getattr(importlib.import_module(f"bot_bottle.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bot_bottle' has no attribute {name!r}")
