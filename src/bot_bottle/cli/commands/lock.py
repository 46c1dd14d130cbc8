"""`bottle lock`: pin what a bottle is made of."""

from __future__ import annotations

from typing import Any

import click

from bot_bottle import api as artifacts
from bot_bottle.bottle.lock import NAME, Lock
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.shared_cache import shared_cache
from bot_bottle.engine.source import Source
from bot_bottle.errors import SpecError
from bot_bottle.pack.converter import Conversion, Converter

_HELP = """Write bottle.lock, which pins what the bottle of PATH is made of (default: the current folder).

It has the digests of the base images and of the artifact, the id of the image, and the versions of smolvm and
the agent. bottle run --locked fails where anything differs. Prints what differs from the file that is there;
without --update that is an error, and the file stays as it is.

\b
Examples:
  bottle lock
  bottle lock --update
  bottle lock --image myagent:latest
"""


@click.command("lock", help=_HELP)
@options.source_arguments
@click.option("--update", is_flag=True, help="Show the difference, and pin what is there now.")
@options.engine_options
@options.yes_option
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, update: bool, **given: Any) -> None:
    """Make the artifact if needed, compare, and write."""
    settings = inputs.settings(ctx)
    path = settings.project / NAME
    pinned = None if update and not path.exists() else Lock.read(path)
    made: list[Lock] = []

    def on_conversion(source: Source, conversion: Conversion, converter: Converter) -> None:
        made.append(Lock.of(source, conversion, converter))

    how = {name: given[name] for name in ("engine", "packer", "accel", "max_image_size")}
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    artifacts.convert(
        inputs.source(ctx, settings),
        **how,
        shared=shared_cache(ctx, settings),
        on_conversion=on_conversion,
        progress=progress,
    )
    changes = pinned.changes(made[0]) if pinned is not None else []
    if changes and not update:
        raise SpecError(
            f"what is there now differs from {path}",
            why="\n".join(map(str, changes)),
            next_step="bottle lock --update pins it",
        )
    for change in changes:
        click.echo(change)
    if pinned is None or changes:
        made[0].write(path)
        click.echo(path)
    else:
        progress.note(f"{'lock':<8} nothing differs from {path}")
