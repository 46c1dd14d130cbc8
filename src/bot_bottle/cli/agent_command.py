"""The commands of agents: `bottle claude` and others, which are `bottle run --agent` with their name."""

from __future__ import annotations

import click

from bot_bottle.cli.agent import ARGUMENTS
from bot_bottle.cli.commands.run import CommandAfterDashes
from bot_bottle.cli.commands.run import command as run
from bot_bottle.errors import UsageError
from bot_bottle.host.text import printable

_WITHOUT = ("twin", "prompt", "ports", "agent")
_HELP = """Let {title} work in a microVM, on a clone of the repository in PATH (default: the current folder).

It is put into the repository's image as a layer, or into an image of bottle's own where there is no
Dockerfile. It reaches its own hosts, and nothing else that you do not allow. Its commits come back as the
branch bottle/NAME. ARGS are arguments of {name} itself. All options of bottle run can be given.

\b
Examples:
  bottle {name}
  bottle {name} ~/project
  bottle {name} -p 'fix the tests'
  bottle {name} -p 'fix the tests' --json
  bottle {name} -- --version
"""


class _AgentCommand(CommandAfterDashes):
    """A command whose arguments after `--` are the agent's."""

    agent = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options; the arguments after `--` are for the agent."""
        try:
            found = super().parse_args(ctx, [f"--agent={self.agent}", *args])
        except click.NoSuchOption as error:
            raise UsageError(
                f"no such option {printable(error.option_name, limit=80)!r}",
                next_step=f"see bottle {self.agent} --help; options of {self.agent} itself come after --",
            ) from error
        ctx.meta[ARGUMENTS] = ctx.obj
        ctx.obj = ()
        return found

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage line with the agent's arguments."""
        return [piece.replace("CMD", "ARGS") for piece in super().collect_usage_pieces(ctx)]


def agent_command(name: str, title: str) -> click.Command:
    """Return the command of an agent."""
    shared = [each for each in run.params if each.name not in _WITHOUT]
    published = "Publish a port of the bottle on 127.0.0.1."
    another = "Another version, or a profile of your own."
    own: list[click.Parameter] = [
        click.Option(["-p", "--prompt"], metavar="TEXT", help="What it is to do, without a dialogue."),
        click.Option(["--publish", "ports"], multiple=True, metavar="[HOST:]GUEST", help=published),
        click.Option(["--agent"], metavar="NAME[@VERSION]", help=another),
        click.Option(["--twin"], is_flag=True, hidden=True, help="See bottle run."),
    ]
    text = _HELP.format(name=name, title=title)
    made = _AgentCommand(name, params=[*shared, *own], callback=run.callback, help=text)
    made.agent = name
    return made
