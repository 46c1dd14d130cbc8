"""`bottle scan`: find secrets in an image or artifact before it is shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from bot_bottle import api as artifacts
from bot_bottle.cli import options
from bot_bottle.engine.source import Source
from bot_bottle.errors import LeakError

if TYPE_CHECKING:
    from bot_bottle.scan.credential_files import Finding

_HELP = """Find secrets in TARGET: a .smolmachine, an image in the engine, or its archive.

Every layer of an image is searched, since a file that a later layer deletes is still in the image, and so are
its variables and history. Printed is where something looks like a secret and of which kind, never its value.
The exit status is 122 if something was found.

\b
Examples:
  bottle scan myagent:latest
  bottle scan agent.smolmachine
  bottle scan saved.tar --exclude 'usr/share/doc/*' --json | jq .findings
"""


exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Ignore findings in these paths (* matches anything, including /).",
)


@click.command("scan", help=_HELP)
@click.argument("target")
@exclude_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.engine_option
@options.output_options
def command(
    target: str, exclude: tuple[str, ...], as_json: bool, engine: str | None, quiet: bool, verbose: bool
) -> int:
    """Print where secrets are; return the exit status."""
    progress = options.progress(quiet=quiet or as_json, verbose=verbose)
    found = artifacts.scan(_source_of(target), exclude=exclude, engine=engine, progress=progress)
    if as_json:
        document = {"target": target, "ok": not found, "findings": [asdict(each) for each in found]}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(shown(target, found))
    return LeakError.exit_code if found else 0


def _source_of(target: str) -> Path | Source:
    """Return what TARGET means: an artifact, an archive or layout, or an image. A file has precedence."""
    path = Path(target)
    if path.suffix == ".smolmachine":
        return path
    archive = Source.of_archive(target)
    folder = (path / "index.json", path / "manifest.json")
    if archive.archive_name is not None or any(each.is_file() for each in (path, *folder)):
        return archive
    return Source(image=target)


def shown(target: str, found: Sequence[Finding]) -> str:
    """Return where secrets are, as it is printed."""
    lines = []
    for layer, each in groupby(found, lambda finding: finding.layer):
        lines += [layer[:19], *(f"  {finding}" for finding in each)]
    places = "1 place looks like a secret" if len(found) == 1 else f"{len(found)} places look like secrets"
    result = places if found else "nothing looks like a secret"
    return "\n".join([*lines, f"{target}: {result}"])
