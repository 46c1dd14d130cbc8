"""`bottle pack`: make an artifact. Its path is the only line on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bot_bottle import api as artifacts
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.artifact_output import copy_out, find_place, output_option
from bot_bottle.cli.shared_cache import shared_cache
from bot_bottle.engine.source import Source
from bot_bottle.errors import DifferenceError
from bot_bottle.host.progress import Progress
from bot_bottle.pack.converter import Conversion

_HELP = """Make a .smolmachine from PATH's Dockerfile (default: the current folder), an image or an archive.

Prints the artifact's path. It stays in the cache; with -o it is copied out, and -o /dev/stdout prints the
artifact itself.

\b
Examples:
  bottle pack
  bottle pack --image myagent:latest -o agent.smolmachine
  docker save myagent > a.tar; bottle pack --archive a.tar
  bottle pack --archive images.tar.gz:myagent:latest
  bottle pack --json . | jq .seconds
"""


@click.command("pack", help=_HELP)
@options.source_arguments
@output_option
@click.option(
    "--verify",
    is_flag=True,
    help="Export the image again and compare; see bottle verify.",
)
@click.option("--json", "as_json", is_flag=True, help="Print id, key, digest, size, packer, hit and seconds.")
@options.engine_options
@click.option(
    "--via",
    type=click.Choice(["archive", "registry"]),
    help="How smolvm gets the image (default: an archive if smolvm accepts one).",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "direct", "save", "push"]),
    default="auto",
    show_default=True,
    envvar="BOT_BOTTLE_TRANSPORT",
    show_envvar=True,
    help="How to export the image: auto reads the engine's storage if possible.",
)
@options.cache_push_option
@options.yes_option
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, output: Path | None, verify: bool, as_json: bool, **given: Any) -> None:
    """Convert, and print the artifact's path."""
    place = find_place(output, as_json=as_json)
    settings = inputs.settings(ctx)
    source, shared = inputs.source(ctx, settings), shared_cache(ctx, settings)
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    how = {name: given[name] for name in ("engine", "packer", "accel", "via", "transport", "max_image_size")}
    done = artifacts.convert(source, **how, shared=shared, progress=progress)
    if verify:
        with done.entry.hold():
            _verify(done, source, given["engine"], progress)
    where = copy_out(done.entry, place)
    if where is not None:
        click.echo(json.dumps(_described(done, where)) if as_json else where)


def _verify(done: Conversion, source: Source, engine: str | None, progress: Progress) -> None:
    """Print differences from the image as notes. Raises DifferenceError for those that nothing explains."""
    from bot_bottle.cli.commands.verify import shown  # only here: it takes long to import

    image = source if source.archive is not None else Source(image=done.image_id)
    report = artifacts.verify(done.entry.path, image, engine=engine, progress=progress)
    if not report.ok:
        raise DifferenceError(
            f"the artifact differs from its image: {done.entry.path}",
            why=shown(report),
            next_step="do not use it; `bottle cache prune --all` removes it. This is a bug in its packer",
        )
    progress.note(shown(report))


def _described(done: Conversion, where: Path) -> dict[str, Any]:
    return {
        "path": str(where),
        "image_id": done.image_id,
        "key": done.entry.key.name,
        "digest": str(done.entry.digest),
        "size": done.entry.size,
        "packer": done.packer,
        "cache": "hit" if done.entry.hit else "remote" if done.fetched else "miss",
        "losses": [
            {"kind": loss.kind, "count": loss.count, "examples": loss.examples} for loss in done.losses
        ],
        "seconds": done.seconds,
    }
