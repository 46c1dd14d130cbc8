"""`bottle verify`: check an artifact, and compare it with its image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins

from bot_bottle import api as artifacts
from bot_bottle.cli import options
from bot_bottle.engine.source import Source
from bot_bottle.errors import DifferenceError, UsageError
from bot_bottle.host.progress import human_bytes
from bot_bottle.verify.findings import Finding
from bot_bottle.verify.verify import Report

_HELP = """Check every byte of ARTIFACT, and with --image or --archive compare it with the image.

Compared are every file's path, type, mode, owner, time, size, content, links, extended attributes and device
numbers, and how the image is run. No machine is started. Differences are printed with the reason; the exit
status is 115 if there is a difference without one.

\b
Examples:
  bottle verify agent.smolmachine
  bottle verify agent.smolmachine --image myagent:latest
  bottle verify agent.smolmachine --archive saved.tar --json | jq .findings
"""
_SHOWN = 5  # examples of one kind of difference; --json has more


@click.command("verify", help=_HELP)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--image", metavar="REF", help="Compare with an image in the engine.")
@click.option(
    "--archive",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="Compare with a docker-save archive or an OCI layout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.engine_option
@options.output_options
def command(
    artifact: Path,
    image: str | None,
    archive: Path | None,
    as_json: bool,
    engine: str | None,
    quiet: bool,
    verbose: bool,
) -> int:
    """Verify, print the differences, and return the exit status."""
    source = Source(image=image) if image is not None else None
    if archive is not None:
        if image is not None:
            raise UsageError("--image and --archive exclude each other")
        source = Source.of_archive(str(archive))
    progress = options.progress(quiet=quiet or as_json, verbose=verbose)
    report = artifacts.verify(artifact, source, engine=engine, progress=progress)
    click.echo(json.dumps(described(report), indent=2) if as_json else shown(report))
    return 0 if report.ok else DifferenceError.exit_code


def described(report: Report) -> dict[str, Any]:
    """Return a report as a JSON document."""
    return {
        "ok": report.ok,
        "artifact": str(report.artifact.path),
        "size": report.artifact.size,
        "entries": report.entries,
        "image_id": report.image_id,
        "findings": [to_builtins(finding) for finding in report.findings],
    }


def shown(report: Report) -> str:
    """Return a report as text."""
    lines = [line for finding in report.findings for line in _lines(finding)]
    facts = f"{report.entries} entries, {human_bytes(report.artifact.size)}"
    if not report.ok:
        result = "it differs without a known reason" if report.image_id else "smolvm would refuse it"
    elif report.image_id is None:
        result = "complete; use --image or --archive to compare it with its image"
    elif report.findings:
        result = f"equal to image {report.image_id[:19]}, except for the above"
    else:
        result = f"equal to image {report.image_id[:19]}"
    return "\n".join([*lines, f"{report.artifact.path}: {result} ({facts})"])


def _lines(finding: Finding) -> list[str]:
    head = "expected" if finding.expected else "DIFFERS "
    lines = [f"{head}  {finding.count} x {finding.what}: {finding.why}"]
    for example in finding.examples[:_SHOWN]:
        there = f"  image {example.image}" if example.image else ""
        here = f"  artifact {example.artifact}" if example.artifact else ""
        lines.append(f"            {example.path}{there}{here}")
    if finding.count > _SHOWN:
        lines.append(f"            and {finding.count - _SHOWN} more")
    return lines
