"""What a container's gate has to know of its image: what it would run, and what would get into our way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot_bottle.backend.base import BottleConfig
from bot_bottle.backend.container.entrypoint import is_for_shell
from bot_bottle.engine.engine import Engine
from bot_bottle.errors import ImageError, SpecError

# read by the loader of every program, the gate's too
_LOADER = re.compile(r"LD_[A-Z0-9_]+")


@dataclass(frozen=True, slots=True)
class Image:
    """An image by its id, and the command and variables that it has of its own."""

    id: str
    command: tuple[str, ...]
    env: Mapping[str, str]


def is_for_loader(name: str) -> bool:
    """Whether every program's loader reads this variable: it must be empty while the gate runs."""
    return bool(_LOADER.fullmatch(name))


def held_up(env: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that do not come through the gate, to be given to the command once more.

    They are those for the loader, and those whose names a shell cannot hold.
    """
    return {name: value for name, value in env.items() if is_for_loader(name) or not is_for_shell(name)}


def look(engine: Engine, image: str, launch: BottleConfig) -> Image:
    """Ask the engine. Raises SpecError if there is nothing to run, ImageError for a broken configuration."""
    config = engine.inspect(image).get("Config") or {}
    try:
        own = (*_texts(config.get("Entrypoint")), *_texts(config.get("Cmd")))
        pairs = [item.partition("=")[::2] for item in _texts(config.get("Env"))]
    except (AttributeError, TypeError) as error:
        raise ImageError(f"{engine.name} tells nonsense of the image {image}") from error
    if not (launch.command or own):
        raise SpecError("the image names no command", next_step="give one: bottle run . -- COMMAND")
    return Image(image, own, dict(pairs))


def _texts(value: Any) -> list[str]:
    texts = value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts
