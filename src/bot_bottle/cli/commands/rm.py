"""`bottle rm`: remove what an exited bottle left, or what agents have left for the next ones."""

from __future__ import annotations

from pathlib import Path

import click

from bot_bottle.bottle import manage
from bot_bottle.cli import complete_names as completing
from bot_bottle.errors import AgentError, UsageError, WorkspaceError
from bot_bottle.host.text import printable
from bot_bottle.workspace.spec import Request

_HELP = """Remove the logs and clones of exited bottles, and their refs beside your branches.

Refused (status 116) if that would lose work: commits that are on none of your branches or tags, uncommitted
changes that were not applied, repositories inside the clone. Each is named, with the command that keeps it.
The branch bottle/NAME is yours and stays.

With --state, remove what agents have kept for their next bottles of the repository that you are in: their
history and sessions.

\b
Examples:
  bottle rm blue
  bottle rm --force blue green
  bottle rm --state
  bottle rm --state --agent claude
"""


@click.command("rm", help=_HELP)
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=completing.left)
@click.option("-f", "--force", is_flag=True, help="Remove even if work would be lost.")
@click.option("--state", is_flag=True, help="Remove the state of agents in this repository.")
@click.option("--agent", metavar="NAME", help="With --state: of this agent only.")
def command(names: tuple[str, ...], force: bool, state: bool, agent: str | None) -> None:
    """Remove each, and print its name."""
    if state == bool(names):
        raise UsageError("give either names of bottles or --state", next_step="see bottle ls")
    if agent is not None and not state:
        raise UsageError("--agent needs --state")
    if state:
        _remove_state(agent)
    for name in names:
        lost = manage.remove(name, force=force)
        if lost:
            raise WorkspaceError(
                f"{name} has commits or changes that exist nowhere else",
                why="\n".join(printable(line) for line in lost),
                next_step=f"save what you need; to remove it all the same: bottle rm --force {name}",
            )
        click.echo(name)


def _remove_state(agent: str | None) -> None:
    from bot_bottle.agent.state import remove

    repository = Request("clone", Path.cwd()).top
    removed = remove(repository, agent)
    if not removed:
        of = f"of {printable(agent, limit=40)} " if agent else ""
        raise AgentError(
            f"no state {of}is kept for {printable(str(repository))}", next_step="see bottle agents show NAME"
        )
    for name in removed:
        click.echo(name)
