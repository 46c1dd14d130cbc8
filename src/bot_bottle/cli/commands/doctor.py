"""`bottle doctor`: check what `bottle run` needs."""

from __future__ import annotations

import json
from typing import Any

import click

from bot_bottle import doctor
from bot_bottle.cli import options
from bot_bottle.errors import DoctorError
from bot_bottle.vm.accel import Accel

_HELP = """Check whether `bottle run` would work here: engine, smolvm, KVM, QEMU, memory, disk, cache.

An image of one file is built and packed with the engine, and removed again.

Exits with 0 only if it would. Every problem is printed with a next step.

\b
Examples:
  bottle doctor
  bottle doctor --json | jq '.checks[] | select(.mark != "good")'
"""

_MARKS = {"good": ("ok", "green"), "poor": ("!!", "yellow"), "bad": ("NO", "red")}


@click.command("doctor", help=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@options.engine_option
@options.accel_option
def command(as_json: bool, engine: str | None, accel: Accel) -> int:
    """Check, print, and return whether `bottle run` would work."""
    found = []
    progress = options.progress(quiet=as_json, verbose=False)
    for check in doctor.examine(engine=engine, accel=accel, progress=progress):
        found.append(check)
        if not as_json:
            _show(check)
    good = all(check.mark != "bad" for check in found)
    if as_json:
        answer: dict[str, Any] = {"ok": good, "checks": [check.as_dict() for check in found]}
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo("\nbottle run works here." if good else "\nbottle run does not work here yet.")
    return 0 if good else DoctorError.exit_code


def _show(check: doctor.Check) -> None:
    word, colour = _MARKS[check.mark]
    click.echo(f"[{click.style(word, fg=colour)}] {check.name:<10} {check.finding}")
    if check.next_step and check.mark != "good":
        click.echo(f"     {'':<10} next: {check.next_step}")
