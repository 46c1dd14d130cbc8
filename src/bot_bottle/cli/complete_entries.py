"""Completion of entries of `egress.allow`, and of caches.

Imports are in the functions: the options load this module.
"""

from __future__ import annotations

from contextlib import suppress

import click


def complete_presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of presets."""
    from bot_bottle.network.presets import preset_names

    return _left(ctx, param, incomplete, preset_names())


def complete_caches(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of caches of packages."""
    from bot_bottle.network.caches import cache_names

    return _left(ctx, param, incomplete, tuple(cache_names()))


def complete_rules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete presets, and with --remove the rules of the running bottle."""
    from bot_bottle.bottle.network import policy_of
    from bot_bottle.errors import BottleError

    if not ctx.params.get("remove"):
        return complete_presets(ctx, param, incomplete)
    with suppress(OSError, ValueError, BottleError):
        return _left(ctx, param, incomplete, tuple(map(str, policy_of(ctx.params["name"]).rules)))
    return []


def _left(ctx: click.Context, param: click.Parameter, incomplete: str, found: tuple[str, ...]) -> list[str]:
    given = ctx.params.get(param.name or "") or ()
    return [entry for entry in found if entry.startswith(incomplete) and entry not in given]
