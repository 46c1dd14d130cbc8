"""`bottle config`: every setting in force, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bot_bottle.cli import options
from bot_bottle.cli import settings as inputs
from bot_bottle.cli.bottle_spec import bottle_spec
from bot_bottle.cli.output import table
from bot_bottle.config.settings import Setting, Settings
from bot_bottle.host.text import printable
from bot_bottle.secrets.build import Ssh
from bot_bottle.secrets.reference import Reference
from bot_bottle.workspace import lifecycle

_HELP = """Show the settings of `bottle run` with the same PATH and options, and where each value is from.

Options override the environment, which overrides bottle.toml, which overrides the defaults; of a limit in
both the environment and bottle.toml the smaller is in force. bottle.toml is searched in PATH; without PATH in
the current folder and its parents, up to the top of the repository.
Settings that `bottle run` refuses are refused here too, with the same message and exit status.

\b
Examples:
  bottle config
  bottle config -m 8g --json . | jq .memory
"""


@click.command("config", help=_HELP)
@options.path_argument
@options.build_options
@options.bottle_options
@options.accel_option
@click.option("--json", "as_json", is_flag=True, help="Print the value and origin of each key as JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **_given: Any) -> None:
    """Print the settings."""
    settings = inputs.settings(ctx)
    bottle_spec(ctx, settings, shown=True)  # what cannot be run is refused as `bottle run` does
    shown = {key: (_shown(key, setting), setting.origin) for key, setting in settings.items()}
    shown |= {key: (value, str(settings.file)) for key, value in _of_devcontainer(settings).items()}
    if as_json:
        document = {key: {"value": value, "from": origin} for key, (value, origin) in shown.items()}
        click.echo(json.dumps(document, indent=2))
        return
    rows = [(key, _text(value), origin) for key, (value, origin) in shown.items()]
    click.echo(table(rows, most=50))


def _of_devcontainer(settings: Settings) -> dict[str, Any]:
    """Return what a devcontainer.json has done that no key of bottle.toml has."""
    file = settings.devcontainer
    if file is None:
        return {}
    features = {"features": list(file.features.wanted)} if file.features else {}
    commands = {**(file.setup.commands if file.setup else {}), **file.start}
    return {**features, **{key: lifecycle.shown(command) for key, command in commands.items()}}


def _shown(key: str, setting: Setting) -> Any:
    """Return what may be shown: a variable on the command line or with such a name may be a secret."""
    if setting.private or (key.startswith(("env.", "image.args.")) and setting.origin.startswith("--")):
        return "(not shown)"
    return str(setting.value) if isinstance(setting.value, Path | Reference | Ssh) else setting.value


def _text(value: Any) -> str:
    if value is None or value in ((), ""):
        return "-"
    return printable(value) if isinstance(value, str) else json.dumps(value)
