"""The option -o of commands that copy an artifact out of the cache."""

from __future__ import annotations

from pathlib import Path

import click

from bot_bottle.cache.entry import Entry
from bot_bottle.errors import UsageError
from bot_bottle.host.output_file import OutputFile, find_output

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Copy the artifact here: to a file, a pipe or /dev/stdout.",
)


def find_place(output: Path | None, *, as_json: bool) -> OutputFile | None:
    """Return where to copy the artifact, checked before anything is made. Raises UsageError."""
    place = find_output(output) if output is not None else None
    if place is not None and place.is_stdout and as_json:
        raise UsageError(f"--json and -o {output} both write to standard output", next_step="drop one")
    return place


def copy_out(entry: Entry, place: OutputFile | None) -> Path | None:
    """Copy an artifact to a place, if there is one; return its path, None if it is on standard output."""
    if place is None:
        return entry.path
    with entry.hold(), entry.path.open("rb") as artifact:
        place.write(artifact)
    return None if place.is_stdout else place.path
