"""Completion of names of bottles. Folders are listed; nothing is opened, locked or printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click

from bot_bottle.bottle import names, records
from bot_bottle.bottle.spec import check_slug
from bot_bottle.errors import BottleError, SpecError
from bot_bottle.host import paths

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _completer(listed: Callable[[], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        given = ctx.params.get(param.name or "") or ()
        with suppress(OSError, BottleError):
            return [
                name
                for name in sorted(set(listed()))
                if name.startswith(incomplete) and name not in given and _is_name(name)
            ]
        return []

    return complete


def _is_name(text: str) -> bool:
    with suppress(SpecError):
        return bool(check_slug(text))
    return False


def _left(*parts: str) -> list[str]:
    """Return the bottles that still have one of these."""
    folders = [path for path in _folder().iterdir() if any((path / part).exists() for part in parts)]
    return [path.name for path in folders]


def _folder() -> Path:
    return paths.bottle_dir("x").parent


running = _completer(names.locked_names)
with_log = _completer(lambda: _left("log"))
with_clone = _completer(lambda: _left("clone"))
with_held = _completer(lambda: _left("held"))
left = _completer(lambda: _left("log", "clone", "held"))
known = _completer(records.names)


def with_output(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete for `bottle logs`: any bottle has refused connections, and some have a log."""
    return (known if ctx.params.get("egress") else with_log)(ctx, param, incomplete)
