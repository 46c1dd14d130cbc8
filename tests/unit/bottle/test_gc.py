"""Every kind of stray that is ever recorded has who sweeps it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import partial
from pathlib import Path

import bot_bottle
from bot_bottle.bottle.gc import SWEEPERS


def test_every_kind_of_leftover_has_a_sweeper_that_exists() -> None:
    for sweeper in SWEEPERS.values():
        if isinstance(sweeper, partial):
            module, function = sweeper.args
            assert callable(getattr(importlib.import_module(f"bot_bottle.{module}"), function))


def test_every_kind_that_is_recorded_has_one() -> None:
    kinds = {"machine", "process"}
    for info in pkgutil.walk_packages(bot_bottle.__path__, "bot_bottle."):
        path = Path(*info.name.split(".")[1:]).with_suffix(".py")
        source = Path(bot_bottle.__path__[0]) / path
        if source.is_file():
            kinds |= set(re.findall(r'^STRAY = "([^"]+)"', source.read_text(), re.MULTILINE))
    assert kinds == set(SWEEPERS)
