"""A devcontainer.json that only names a build. Source: https://containers.dev/implementors/json_reference/"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import json5

from bot_bottle.config.model import File, parse, printable
from bot_bottle.errors import SpecError

# editors' own, or without meaning for a bottle
_IGNORED = {"$schema", "name", "customizations"}


def understood(text: str, path: Path) -> File:
    """Give the build that the file names, as a bottle.toml would. Raises SpecError when it asks for more."""
    try:
        document = json5.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not JSON", why=str(error)[:500], next_step=f"correct {path}") from error
    if not isinstance(document, dict):
        raise SpecError(f"{path} holds no object")
    build = document.pop("build", None)
    asked = [key for key in document if key not in _IGNORED and key not in ("remoteUser", "containerEnv")]
    if asked or not isinstance(build, dict):
        what = f"it also asks for {printable(', '.join(asked))}" if asked else "it names no build"
        raise SpecError(
            f"{path} is more than bottle understands",
            why=what,
            next_step="bottle init writes a bottle.toml, which goes before it",
        )
    return _file(build, document, path)


def _file(build: dict[str, Any], document: dict[str, Any], path: Path) -> File:
    unknown = [key for key in build if key not in ("dockerfile", "context", "args", "target")]
    if unknown or not isinstance(build.get("dockerfile"), str):
        what = (
            f"its build has {printable(', '.join(unknown))}" if unknown else "its build names no dockerfile"
        )
        raise SpecError(f"{path} is more than bottle understands", why=what)
    # both paths are relative to the file's folder
    image = {**build, "context": build.get("context", ".")}
    for key in ("dockerfile", "context"):
        if isinstance(image[key], str):
            image[key] = posixpath.normpath(f"{path.parent.name}/{image[key]}")
    wanted = {"image": image, "user": document.get("remoteUser"), "env": document.get("containerEnv", {})}
    return parse(wanted, str(path))
