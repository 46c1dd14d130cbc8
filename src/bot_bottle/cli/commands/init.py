"""`bottle init`: write a bottle.toml to start from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bot_bottle.config.file import NAME
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.workspace.spec import find_top

_HELP = """Write a bottle.toml to start from into PATH (default: the current folder).

An existing file is not changed.

\b
Examples:
  bottle init                  the image's own command
  bottle init --agent claude   Claude Code without permission prompts: the bottle isolates it
  bottle init --agent shell ~/project
"""

_COMMANDS = {
    "claude": ["claude", "--dangerously-skip-permissions"],
    "codex": ["codex", "--dangerously-bypass-approvals-and-sandbox"],
    "shell": ["sh", "-l"],
}

_FILE = """\
# The bottle of this repository. `bottle config` shows what is in force, and where each value is from.

# The command; without one, the image's own ENTRYPOINT and CMD run.
{commands}

# What the bottle sees of this repository: nothing ("none"), a private clone whose commits come back
# on a branch of their own ("clone"), or this very folder ("mount").
{workspace}workspace = "clone"

# memory = "4g"
# cpus = 4
# user = "agent"             # default: the image's USER
# workdir = "/src"           # default: /workspace, without a workspace the image's WORKDIR

[image]
# context = "."              # paths are relative to this file and stay in its folder
# dockerfile = "Dockerfile"
# target = "dev"
# args = {{ VERSION = "3" }}

[env]
# DEBUG = "1"

# Secrets are never written here, only where they are: env, file or keychain.
# [secrets.API_KEY]
# env = "API_KEY"
"""


@click.command("init", help=_HELP)
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("--agent", type=click.Choice(sorted(_COMMANDS)), help="The command that the bottle runs.")
def command(path: Path, agent: str | None) -> None:
    """Write the file, which must not exist yet."""
    target = path / NAME
    commands = [
        f"{'' if name == agent else '# '}command = {json.dumps(words)}" for name, words in _COMMANDS.items()
    ]
    workspace = "" if find_top(path) else "# "  # a folder outside a repository cannot be cloned
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(_FILE.format(commands="\n".join(commands), workspace=workspace))
    except FileExistsError as error:
        raise SpecError(f"{target} already exists", next_step="edit it, or remove it first") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no such directory: {path}") from error
    except OSError as error:
        raise SpecError(f"cannot write {target}", why=error.strerror or str(error)) from error
    click.echo(target)
