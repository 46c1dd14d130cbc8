"""`bottle pull`: an artifact from a registry into the cache."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bot_bottle.bottle.gc import run_context
from bot_bottle.cache.cache import Cache
from bot_bottle.cli import options
from bot_bottle.cli.artifact_output import copy_out, find_place, output_option
from bot_bottle.config.user import read_user_config
from bot_bottle.host import paths
from bot_bottle.host.text import printable
from bot_bottle.remote.pull import pull
from bot_bottle.remote.reference import Reference

_HELP = """Pull a .smolmachine from REF in an OCI registry into the cache, and print its path.

REF may be what bottle push or smolvm pack push has pushed. What artifacts in the cache have already is not
sent again, and an interrupted download goes on where it ended. Logins are docker's (docker login). With
cache.trust in config.toml, an artifact that no trusted key has signed is refused, and so is one that was
pushed to another name, or before the one that was pulled from the same tag.

\b
Examples:
  bottle pull registry.example.org/team/agent:1
  bottle pull registry.example.org/team/agent:1 -o agent.smolmachine
  bottle pull mirror.example.org/copies/agent:1 --pushed-as team/agent:1
"""


@click.command("pull", help=_HELP)
@click.argument("ref")
@output_option
@click.option("--allow-older", is_flag=True, help="Pull it though a newer one was pulled from this tag.")
@click.option("--pushed-as", metavar="NAME", help="The name that a copy was pushed to, without its registry.")
@click.option("--json", "as_json", is_flag=True, help="Print path, digest, size, key, signer and scan.")
@options.output_options
def command(
    ref: str,
    output: Path | None,
    allow_older: bool,
    pushed_as: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Pull, and print the path."""
    reference = Reference.parse(ref)
    name = Reference.parse(f"{reference.host}/{pushed_as}").name if pushed_as else ""
    place = find_place(output, as_json=as_json)
    progress = options.progress(quiet=quiet, verbose=verbose)
    trusted = read_user_config()[1].get("cache.trust")
    with run_context():
        cache = Cache(paths.artifacts_dir())
        entry, found = pull(reference, trusted, cache, progress, allow_older=allow_older, pushed_as=name)
    if found.signer:
        progress.note(f"{'':<8} signed by {printable(found.signer, limit=200)}")
    where = copy_out(entry, place)
    if where is None:
        return
    document = {
        "path": str(where),
        "digest": str(entry.digest),
        "size": entry.size,
        "key": entry.key.name,
        "cache": "hit" if entry.hit else "miss",
        "signer": found.signer or None,
        "scan": found.receipt.scan if found.receipt else None,
    }
    click.echo(json.dumps(document) if as_json else where)
