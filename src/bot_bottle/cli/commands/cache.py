"""`bottle cache`: list artifacts, explain why one would be made again, and remove them."""

from __future__ import annotations

import json
import re
import time
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import click

from bot_bottle import api as artifacts
from bot_bottle.agent import store
from bot_bottle.bottle.gc import run_context
from bot_bottle.cache.cache import Cache
from bot_bottle.cache.config_digests import ConfigDigests
from bot_bottle.cache.entry import Entry
from bot_bottle.cache.packages import PackageStore, Removed, StoredFile
from bot_bottle.cache.prune import Pruned
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.output import ago, table
from bot_bottle.errors import UsageError, VerifyError
from bot_bottle.host import paths
from bot_bottle.host.progress import human_bytes, human_count
from bot_bottle.host.sizes import require_disk_size
from bot_bottle.host.text import printable
from bot_bottle.pack.layer_headers import PrunedHeaders
from bot_bottle.pack.layer_headers import prune as prune_headers
from bot_bottle.registry.blob_cache import BlobCache
from bot_bottle.remote.download import discard_downloads

_NOT_RECORDED = "its bytes are not the recorded ones"
_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_GROUP_HELP = """List, explain, verify and prune the cache of artifacts.

\b
Examples:
  bottle cache ls
  bottle cache why .         would this folder hit the cache; if not, what changed
  bottle cache verify
  bottle cache prune --keep-bytes 20GB
"""

_LS_HELP = """List the artifacts, the most recently used first.

The size includes the root image made from an artifact to boot it without KVM; with --json it is derived_size.
Agents' packages, and those of registries by host, follow; --json has artifacts only.

\b
Examples:
  bottle cache ls
  bottle cache ls --json | jq -r '.[] | select(.size > 1e9) | .path'
"""

_PRUNE_HELP = """Remove artifacts that are not in use, and what killed commands left.

Cached layer indexes and packages are removed by the same rules; --keep-bytes leaves each of them the space
that artifacts do not use. Without --keep-bytes, --older-than or --all only what killed commands left is
removed.

\b
Examples:
  bottle cache prune --older-than 30d
  bottle cache prune --keep-bytes 20GB --dry-run
  bottle cache prune --all
"""

_VERIFY_HELP = """Check every byte of every artifact, of the root images made from them, and of packages.

Exits with 114 if one is damaged; it is made or fetched again when it is needed next.

\b
Examples:
  bottle cache verify
  bottle cache verify --json | jq .damaged
"""

_WHY_HELP = """Explain whether a run of PATH would hit the cache; if not, what has changed.

The Dockerfile is built first. An image is identified by the digest of its config, which holds the digests of
its layers; another name, attestations or another image store do not change it.

\b
Examples:
  bottle cache why
  bottle cache why --image myagent:latest
  bottle cache why --target dev ~/project
"""


@click.group("cache", help=_GROUP_HELP)
def command() -> None:
    """Collect the commands of the cache."""


@command.command("ls", help=_LS_HELP, short_help="List the artifacts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """Print a line for each, or JSON."""
    entries = Cache(paths.artifacts_dir()).list()
    if as_json:
        click.echo(json.dumps([_described(entry) for entry in entries], indent=2))
        return
    rows = [("ARTIFACT", "SIZE", "LAST USED", "SOURCE")]
    for entry in entries:
        used = ago(time.time() - entry.last_used)
        rows.append((entry.path.name, human_bytes(entry.total), used, printable(entry.source)))
    for each in store.stored():
        used = ago(time.time() - each.last_used)
        rows.append((f"agent {each.name} {each.version}", human_bytes(each.size), used, "its packages"))
    for host, files in groupby(sorted(PackageStore(paths.packages_dir()).files(), key=_host), key=_host):
        found = list(files)
        used = ago(time.time() - max(each.last_used for each in found))
        size = human_bytes(sum(each.size for each in found))
        rows.append((f"packages of {host}", size, used, human_count(len(found), "file")))
    click.echo(table([[printable(cell) for cell in row] for row in rows], least=(46, 9, 13), right=(1,)))


@command.command("prune", help=_PRUNE_HELP, short_help="Remove artifacts and leftovers.")
@click.option(
    "--keep-bytes",
    metavar="SIZE",
    help="Remove the least recently used until SIZE (units of 1000) is left, for example 20GB.",
)
@click.option(
    "--older-than", metavar="AGE", help="Remove artifacts not used for AGE, for example 12h or 30d."
)
@click.option(
    "--all", "everything", is_flag=True, help="Remove every artifact that is not in use, and cached layers."
)
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be removed; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(
    keep_bytes: str | None, older_than: str | None, everything: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove, and print what was removed."""
    if everything and (keep_bytes or older_than):
        raise UsageError("--all cannot be combined with --keep-bytes or --older-than", next_step="drop one")
    keep = 0 if everything else require_disk_size(keep_bytes) if keep_bytes is not None else None
    age = _age(older_than) if older_than is not None else None
    with run_context():  # which removes leftovers of killed commands
        cache = Cache(paths.artifacts_dir())
        done = cache.prune(keep_bytes=keep, older_than=age, dry_run=dry_run)
        if keep is not None:
            keep = max(0, keep - sum(entry.total for entry in cache.list()))
        headers = prune_headers(paths.headers_dir(), keep_bytes=keep, older_than=age, dry_run=dry_run)
        if everything and not dry_run:
            BlobCache(paths.layers_dir()).trim(0)
            discard_downloads(paths.downloads_dir())
            ConfigDigests(paths.config_digests_dir()).clear()
            ConfigDigests(paths.features_dir()).clear()
            ConfigDigests(paths.agents_dir() / "images").clear()
        layers = store.prune(age, everything=everything, dry_run=dry_run)
        packages = PackageStore(paths.packages_dir()).prune(keep_bytes=keep, older_than=age, dry_run=dry_run)
    _show_pruned(done, headers, layers, packages, dry_run=dry_run, as_json=as_json)


def _show_pruned(
    done: Pruned,
    headers: PrunedHeaders,
    layers: list[store.Stored],
    packages: Removed,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json:
        answer = {"removed": [entry.path.name for entry in done.removed], "bytes": done.freed,
                  "leftovers": list(done.leftovers), "in_use": [entry.path.name for entry in done.in_use],
                  "headers": {"removed": headers.count, "bytes": headers.freed, "in_use": headers.in_use},
                  "agents": [f"{each.name}@{each.version}" for each in layers],
                  "packages": {"removed": packages.count, "bytes": packages.freed},
                  "dry_run": dry_run}  # fmt: skip
        click.echo(json.dumps(answer, indent=2))
        return
    verb = "would remove" if dry_run else "removed"
    for entry in done.removed:
        click.echo(f"{verb} {entry.path.name}  {human_bytes(entry.total)}  {printable(entry.source)}")
    for name in done.leftovers:
        click.echo(f"{verb} leftover {name}")
    for entry in done.in_use:
        click.echo(f"in use: {entry.path.name}")
    click.echo(f"{verb} {human_count(len(done.removed), 'artifact')}, {human_bytes(done.freed)}")
    for each in layers:
        click.echo(f"{verb} the packages of {each.name} {each.version}, {human_bytes(each.size)}")
    if headers.in_use:
        click.echo("in use: the layer lists")
    if headers.count:
        click.echo(f"{verb} {human_count(headers.count, 'layer list')}, {human_bytes(headers.freed)}")
    if packages.count:
        click.echo(f"{verb} {human_count(packages.count, 'package')}, {human_bytes(packages.freed)}")


@command.command("verify", help=_VERIFY_HELP, short_help="Check every byte of every artifact.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.output_options
def verify(as_json: bool, quiet: bool, verbose: bool) -> int:
    """Check every artifact and print the damaged ones."""
    cache = Cache(paths.artifacts_dir())
    entries = cache.list()
    progress = options.progress(quiet=quiet or as_json, verbose=verbose)
    packages = PackageStore(paths.packages_dir())
    files = packages.files()
    total = sum(entry.total for entry in entries) + sum(each.size for each in files)
    with progress.stage("verify", total or None) as stage:
        damaged = cache.verify(stage.advance)
        bad = packages.verify(stage.advance)
    if as_json:
        found = [{"artifact": one.entry.path.name, "why": one.why} for one in damaged]
        found += [{"package": path.name, "why": _NOT_RECORDED} for path in bad]
        click.echo(json.dumps({"ok": not found, "damaged": found}, indent=2))
    else:
        for one in damaged:
            click.echo(f"damaged: {one.entry.path.name}: {one.why}")
        for path in bad:
            click.echo(f"damaged: {path}: {_NOT_RECORDED}")
        click.echo(f"{human_count(len(entries), 'artifact')}, {len(damaged)} damaged")
        if files or bad:
            click.echo(f"{human_count(len(files), 'package')}, {len(bad)} damaged")
    return VerifyError.exit_code if damaged or bad else 0


@command.command("why", help=_WHY_HELP, short_help="Explain a hit or a miss.")
@options.source_arguments
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.engine_option
@options.packer_option
@options.yes_option
@options.output_options
@click.pass_context
def why(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Build, look up, and print the explanation."""
    source = inputs.source(ctx, inputs.settings(ctx))
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    answer = artifacts.why(source, engine=given["engine"], packer=given["packer"], progress=progress)
    if as_json:
        changes = [{"part": change.part, "old": change.old, "new": change.new} for change in answer.changes]
        nearest = answer.nearest.path.name if answer.nearest else None
        result = {"hit": answer.hit, "image_id": answer.image_id,
                "config_digest": answer.config_digest and str(answer.config_digest),
                "nearest": nearest, "changes": changes, "damage": answer.damage}  # fmt: skip
        click.echo(json.dumps(result))
    else:
        click.echo(str(answer))


def _described(entry: Entry) -> dict[str, Any]:
    return {"path": str(entry.path), "config_digest": str(entry.key.config_digest), "size": entry.size,
            "derived_size": entry.derived, "digest": str(entry.digest), "packer": entry.key.packer,
            "source": entry.source, "created": entry.created, "last_used": entry.last_used}  # fmt: skip


def _host(file: StoredFile) -> str:
    return urlsplit(file.url).hostname or ""


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9})\s*([smhdw])", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"invalid age: {text[:50]!r}", next_step="write it as 12h or 30d")
    return int(found.group(1)) * _AGE_UNITS[found.group(2).lower()]
