"""`bottle agents`: the agents that bottle has profiles of, and their versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

from bot_bottle.agent import profile as profiles
from bot_bottle.agent.choice import Agent, choose
from bot_bottle.agent.state import State
from bot_bottle.cli.output import table
from bot_bottle.host.progress import human_bytes, human_count
from bot_bottle.host.text import printable, printable_lines
from bot_bottle.image.spec import Platform
from bot_bottle.workspace.spec import Request

_HELP = """List the agents, show what a profile does and allows, and update one.

Profiles of your own are in ~/.config/bot-bottle/agents, one NAME.toml each.

\b
Examples:
  bottle agents
  bottle agents show claude
  bottle agents update claude
"""

_LS_HELP = """List the agents, with the version that is used and what it is of.

\b
Examples:
  bottle agents ls
  bottle agents ls --json | jq -r '.[].name'
"""

_SHOW_HELP = """Show the profile of an agent: its packages, what it may reach, and its files in a bottle.

What is kept of it for the next bottle of the repository that you are in is shown last.

\b
Examples:
  bottle agents show claude
  bottle agents show claude@2.1.300
  bottle agents show --json codex | jq .hosts
"""


_UPDATE_HELP = """Use the newest version of an agent (default: of all) from now on.

The registry of your npm configuration is asked. The hashes of the packages are recorded, and have to stay
the same.

\b
Examples:
  bottle agents update
  bottle agents update claude
"""


@click.group("agents", help=_HELP, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context, /) -> None:
    """List them, where no command is named."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(ls)


@command.command("ls", help=_LS_HELP, short_help="List the agents.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool = False) -> None:
    """List the agents, with the version that would be used."""
    agents = [choose(name) for name in profiles.names()]
    if as_json:
        click.echo(json.dumps([_listed(each) for each in agents], indent=2))
        return
    rows = [("AGENT", "VERSION", "OF", "ABOUT")]
    rows += [(each.name, each.version, each.origin, each.profile.about) for each in agents]
    click.echo(table([[printable_lines(cell) for cell in row] for row in rows], least=(8, 9, 12)))


@command.command("show", help=_SHOW_HELP, short_help="Show what an agent does and is allowed.")
@click.argument("name", metavar="NAME[@VERSION]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Print a profile."""
    agent = choose(name)
    top = Request("clone", Path.cwd()).top
    kept = State(top, agent.name, tuple(agent.profile.state)).kept()
    if as_json:
        document = agent.profile.model_dump(exclude_defaults=True)
        found = None if kept is None else {"repository": str(top), **asdict(kept)}
        click.echo(json.dumps({**document, **_listed(agent), "kept": found}, indent=2))
        return
    lines = _lines(agent)
    if kept is not None:
        when = datetime.fromtimestamp(kept.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(
            ("kept", f"{human_count(kept.files, 'file')}, {human_bytes(kept.size)} for {top}, of {when}")
        )
    click.echo(table([(key, printable_lines(text)) for key, text in lines], least=(11,), most=11))


@command.command("update", help=_UPDATE_HELP, short_help="Use the newest version of an agent.")
@click.argument("name", required=False)
def update(name: str | None) -> None:
    """Ask the registry, and record what is newer."""
    from bot_bottle.agent import layer
    from bot_bottle.agent.npm import Registry

    registry, arch = Registry(), Platform.of_this_machine().architecture
    for agent in [choose(each) for each in ([name] if name else profiles.names())]:
        newest = layer.update(agent, arch, registry)
        change = f"{agent.version} -> {newest}" if newest != agent.version else f"{newest} is the newest"
        click.echo(printable(f"{agent.name}: {change}"))


def _listed(agent: Agent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "version": agent.version,
        "version_of": agent.origin,
        "own": profiles.is_own(agent.name),
        "about": agent.profile.about,
    }


def _lines(agent: Agent) -> list[tuple[str, str]]:
    profile = agent.profile
    lines = [("agent", f"{agent.name}: {profile.about}"), ("version", f"{agent.version} (of {agent.origin})")]
    for each in profile.packages:
        found = each.version.replace(profiles.VERSION, agent.version)
        images = " ".join(filter(None, (each.arch, each.libc))) or "all"
        lines.append(("package", f"{each.name}@{found} (images: {images})"))
    lines.append(("command", " ".join([agent.name, *profile.command])))
    lines.append(("headless", " ".join([agent.name, *profile.headless])))
    lines += [("reaches", host) for host in profile.hosts]
    for name, credential in profile.credentials.items():
        source = f"the variable {credential.env or name}"
        login = f"the login {credential.login} ({credential.kind}), or " if credential.login else ""
        other = f"; not used beside {credential.unless}" if credential.unless else ""
        lines.append(("credential", f"{name} for {', '.join(credential.hosts)}: from {login}{source}{other}"))
    lines += [("variable", f"{name}={value}") for name, value in profile.env.items()]
    lines += [("seed", f"~/{path}") for path in profile.seed]
    lines += [("state", f"~/{path}") for path in profile.state]
    return lines
