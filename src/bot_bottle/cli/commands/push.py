"""`bottle push`: an artifact into a registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bot_bottle import api as artifacts
from bot_bottle.cache.cache import Cache
from bot_bottle.cache.entry import Entry, read_entry
from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.commands.scan import exclude_option
from bot_bottle.cli.push_scan import scan_for_push
from bot_bottle.errors import UsageError
from bot_bottle.host import paths
from bot_bottle.host.progress import human_bytes
from bot_bottle.remote.artifact import push
from bot_bottle.remote.receipt import NOT_SCANNED
from bot_bottle.remote.reference import Reference
from bot_bottle.remote.retry import Retry
from bot_bottle.remote.session import Session
from bot_bottle.remote.signature import require_key

_HELP = """Push a .smolmachine to REF in an OCI registry: that of PATH's Dockerfile, or a FILE.

It is stored in smolvm's media types, so smolvm pack pull can pull it too. Logins are docker's (docker login).
With --sign, a receipt of the artifact is signed with an SSH key, as git signs commits. With --scan, it is
searched for secrets first, and not pushed if there are some (exit status 122). Prints the reference by
digest.

\b
Examples:
  bottle push registry.example.org/team/agent:1
  bottle push registry.example.org/team/agent:1 ~/project --sign ~/.ssh/id_ed25519
  bottle push registry.example.org/team/agent:1 --image myagent:latest
  bottle push registry.example.org/team/agent:1 --artifact agent.smolmachine
"""


@click.command("push", help=_HELP)
@click.argument("ref")
@options.source_arguments
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Push this .smolmachine instead of building.",
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign with this SSH key, or the agent's key of this .pub file (default: cache.sign of config.toml).",
)
@click.option("--scan", "scans", is_flag=True, help="Search it for secrets first (default: cache.scan).")
@exclude_option
@click.option("--json", "as_json", is_flag=True, help="Print reference, digests, size, bytes sent and scan.")
@options.engine_options
@options.yes_option
@options.output_options
@click.pass_context
def command(
    ctx: click.Context, /, ref: str, artifact: Path | None, sign: Path | None, as_json: bool, **given: Any
) -> None:
    """Make the artifact if needed, push it, and print the reference."""
    reference = Reference.parse(ref)
    settings = inputs.settings(ctx)
    scans = given["scans"] or settings.value("cache.scan") is True
    _check(reference, scans=scans, exclude=given["exclude"])
    exclude = (*settings.value("cache.scan_exclude"), *given["exclude"])
    if (signing_key := sign or settings.value("cache.sign")) is not None:
        require_key(signing_key)
    progress = options.progress(quiet=given["quiet"], verbose=given["verbose"])
    with ExitStack() as stack:
        if artifact is not None:
            _check_alone(ctx)
            path, entry = artifact, _entry_of(artifact)
        else:
            how = {name: given[name] for name in ("engine", "packer", "accel", "max_image_size")}
            entry = artifacts.convert(inputs.source(ctx, settings), **how, progress=progress).entry
            path = entry.path
            stack.enter_context(entry.hold())
        scan = scan_for_push(exclude, path, progress) if scans else NOT_SCANNED
        key, created = (entry.key, entry.created) if entry else (None, path.stat().st_mtime)
        with progress.stage("push", path.stat().st_size) as stage:
            session = Session(reference, retry=Retry(on_wait=progress.note))
            done = push(
                session, path, key, created, signing_key=signing_key, scan=scan, on_bytes=stage.advance
            )
            stage.conclude(f"{human_bytes(done.sent)} sent" if done.sent else "it was there already")
    by_digest = f"{reference.host}/{reference.repository}@{done.manifest}"
    document = {
        "reference": by_digest,
        "tag": reference.tag,
        "digest": str(done.digest),
        "size": done.size,
        "sent": done.sent,
        "signed": signing_key is not None,
        "scan": scan,
    }
    click.echo(json.dumps(document) if as_json else by_digest)


def _check(reference: Reference, *, scans: bool, exclude: Sequence[str]) -> None:
    if reference.digest is not None:
        raise UsageError("a digest cannot be pushed to", next_step="give a tag, or nothing after the name")
    if exclude and not scans:
        raise UsageError("--exclude only works with --scan")


def _check_alone(ctx: click.Context) -> None:
    for name in ("path", "image", "archive", "dockerfile"):
        if ctx.params.get(name) is not None:
            raise UsageError("--artifact excludes what an artifact is made of", next_step="drop one")


def _entry_of(artifact: Path) -> Entry | None:
    """Return the cache's entry of an artifact, if it is in the cache. Raises UsageError without a file."""
    if not artifact.is_file():
        raise UsageError(f"there is no artifact {artifact}", next_step="make one with bottle pack -o")
    own = artifact.resolve().parent == Cache(paths.artifacts_dir()).folder.resolve()
    return read_entry(artifact.resolve()) if own else None
