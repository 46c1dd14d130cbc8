"""The shared cache of a command: that of the user's configuration, or one of bottle.toml that was granted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

from bot_bottle.bottle.grants import Request, require_grant
from bot_bottle.cli.settings import ask
from bot_bottle.config.settings import Settings
from bot_bottle.errors import UsageError
from bot_bottle.pack.options import CONVERT_OPTIONS, ConvertOptions

if TYPE_CHECKING:
    from bot_bottle.engine.source import Source
    from bot_bottle.pack.converter import Conversion, Converter
    from bot_bottle.remote.shared import SharedCache


def convert_options(ctx: click.Context, settings: Settings) -> ConvertOptions:
    """Return how a command's image becomes an artifact.

    Raises as `shared_cache` does, and SpecError where --locked has no lock: before a build.
    """
    chosen = {name: ctx.params[name] for name in CONVERT_OPTIONS}
    check = _lock_check(settings) if ctx.params.get("locked") else None
    return ConvertOptions(**chosen, shared=shared_cache(ctx, settings), on_conversion=check)


def _lock_check(settings: Settings) -> Callable[[Source, Conversion, Converter], None]:
    from bot_bottle.bottle.lock import NAME, read_pinned, require_locked

    path = settings.project / NAME
    return partial(require_locked, read_pinned(path), path)


def shared_cache(ctx: click.Context, settings: Settings) -> SharedCache | None:
    """Return the shared cache, if one is named.

    Raises TrustError, UsageError for an invalid name, SpecError for a signing key that is not there.
    """
    place, pushes = settings.value("cache.remote"), ctx.params.get("cache_push", False)
    if place is None:
        if pushes:
            raise UsageError(
                "--cache-push needs a shared cache",
                next_step="set cache.remote in ~/.config/bot-bottle/config.toml",
            )
        return None
    from bot_bottle.remote.reference import Reference  # only here: few have one, and it takes long to load
    from bot_bottle.remote.shared import SharedCache
    from bot_bottle.remote.signature import require_key

    if settings["cache.remote"].origin == str(settings.file):
        request = Request(settings.project.resolve(), {"cache.remote": place})
        require_grant(request, ask, yes=ctx.params.get("yes", False))
    reference = Reference.parse(place)
    if ":" in place.rpartition("/")[2] or reference.digest is not None:
        raise UsageError(
            f"cache.remote has a tag or a digest: {place!r}", next_step="name the repository alone"
        )
    signing_key = settings.value("cache.sign")
    if pushes and signing_key is not None:
        require_key(signing_key)
    scan = None
    if pushes and settings.value("cache.scan"):
        from bot_bottle.cli.push_scan import scan_for_push

        scan = partial(scan_for_push, settings.value("cache.scan_exclude"))
    return SharedCache(reference, settings.value("cache.trust"), signing_key, pushes=pushes, scan=scan)
