"""What an agent adds to the settings of a bottle: its layer, command, hosts, credentials and variables.

All of it comes after what the user gives with options. What a repository's bottle.toml chooses has to be
granted; what the user chooses does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_bottle.config.settings import DEFAULT, Setting, Settings
from bot_bottle.engine.commands import BuildRequest
from bot_bottle.engine.source import Source
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.host.progress import Progress
from bot_bottle.secrets.reference import Reference
from bot_bottle.structs import replace

if TYPE_CHECKING:  # profiles are only loaded where there is an agent
    from bot_bottle.agent.choice import Agent
    from bot_bottle.agent.profile import Profile
    from bot_bottle.agent.state import State
    from bot_bottle.bottle.spec import BottleSpec
    from bot_bottle.workspace.spec import Request

ARGUMENTS = "bot_bottle.agent_arguments"
"""Where a click context has the arguments of an agent, of commands such as `bottle claude`."""

_CHOSEN = "bot_bottle.agent"
_ALONE = (("--version",), ("--help",))
_DOCKERFILES = ("Dockerfile", "Containerfile")


def chosen(ctx: click.Context, settings: Settings) -> Agent | None:
    """Return the agent in force, if there is one. Raises SpecError, UsageError."""
    text = settings.value("agent.name")
    prompt = ctx.params.get("prompt")
    if text in (None, "none"):
        if prompt is not None or ctx.params.get("agent_from") or ctx.params.get("no_state"):
            raise UsageError(
                "--prompt, --agent-from and --no-state need --agent", next_step="name one: bottle agents"
            )
        if settings.value("agent.version") and text is None:
            raise SpecError(f"{settings.file}: agent.version needs agent.name")
        return None
    if text not in ctx.meta.setdefault(_CHOSEN, {}):
        ctx.meta[_CHOSEN][text] = _chosen(ctx, settings, text)
    agent: Agent = ctx.meta[_CHOSEN][text]
    return agent


def _chosen(ctx: click.Context, settings: Settings, text: str) -> Agent:
    from bot_bottle.agent.choice import Pin, choose

    said = settings.of_file
    pin = None
    if name := said.get("agent.name"):
        pin = Pin(name, said.get("agent.version"), said.get("agent.integrity", {}))
    agent = choose(text, pin)
    return replace(agent, from_image=True) if ctx.params.get("agent_from") else agent


def layer_of(ctx: click.Context, settings: Settings) -> Agent | None:
    """Return the agent whose layer is put on top of the image, if there is one."""
    agent = chosen(ctx, settings)
    return None if agent is None or agent.from_image else agent


def with_agent(ctx: click.Context, settings: Settings, agent: Agent) -> Settings:
    """Return the settings with what an agent adds. Raises UsageError."""
    profile, origin = agent.profile, f"the agent {agent.name}"

    def default(key: str) -> bool:
        return key not in settings or settings[key].origin == DEFAULT

    command = _command(ctx, agent)
    by_user = settings["agent.name"].origin != str(settings.file)
    of_file = settings["command"].origin == str(settings.file)
    if ctx.params.get("prompt") is not None or default("command") or (of_file and by_user):
        settings = settings.replaced("command", Setting(command, origin))
    if default("workspace"):
        settings = settings.replaced("workspace", Setting("clone", origin))
    for name, value in profile.env.items():
        if default(f"env.{name}"):
            settings = settings.replaced(f"env.{name}", Setting(value, origin))
    if ctx.params.get("network") == "none":
        return settings
    hosts = list(profile.hosts)
    for name, reference in credentials(profile, settings).items():
        if default(f"secrets.{name}"):
            settings = settings.replaced(f"secrets.{name}", Setting(reference, origin))
            hosts += [f"{host}:443" for host in reference.hosts]
    own = settings["egress.allow"]
    allowed = tuple(dict.fromkeys((*own.value, *hosts)))
    both = origin if own.origin == DEFAULT else f"{own.origin}, {origin}"
    return settings.replaced("egress.allow", Setting(allowed, both))


def credentials(profile: Profile, settings: Settings) -> dict[str, Reference]:
    """Return where the values of a profile's credentials are, of those that are there.

    What the user names as a secret of this name comes first, then what `bottle login` was given; variables of
    the environment are for agents without a login. A value never reaches the bottle: the proxy puts it into
    requests.
    """
    from bot_bottle.login.values import variables

    found: dict[str, Reference] = {}
    logins = {each.login: variables(each.login) for each in profile.credentials.values() if each.login}
    for name, each in profile.credentials.items():
        own = settings.get(f"secrets.{name}")
        if own is not None:
            found[name] = own.value
        elif f"env.{name}" in settings:
            continue  # the user gives it to the bottle
        elif each.unless in found:
            continue
        elif there := logins.get(each.login, ()):
            if name in there:
                found[name] = Reference(name, "login", each.login, tuple(each.hosts))
        elif os.environ.get(each.env or name):
            found[name] = Reference(name, "env", each.env or name, tuple(each.hosts))
    return found


def state_of(ctx: click.Context, agent: Agent | None, workspace: Request) -> State | None:
    """Return what a bottle gets of its agent's earlier ones: nothing without a clone, or with --no-state.

    The files of the profile are written anew in each bottle, and never kept.
    """
    if agent is None or not agent.profile.state or workspace.mode != "clone":
        return None
    alone = ctx.params.get("prompt") is None and ctx.meta.get(ARGUMENTS, ()) in _ALONE
    if alone or ctx.params.get("no_state"):
        return None
    from bot_bottle.agent.state import State

    seeds = {seed.instead or path for path, seed in agent.profile.seed.items()}
    return State(workspace.top, agent.name, tuple(agent.profile.state), frozenset(seeds))


def requested(settings: Settings, agent: Agent) -> list[str]:
    """Return what an agent gets that a repository's bottle.toml has chosen, a line each; [] for others."""
    if settings.file is None or settings["agent.name"].origin != str(settings.file):
        return []
    lines = [f"be the work of the agent {agent.name}"]
    lines += [f"reach {host}" for host in agent.profile.hosts]
    for name, each in agent.profile.credentials.items():
        lines.append(f"use your credential {name} for {', '.join(each.hosts)}")
    return lines


def lacks_dockerfile(ctx: click.Context, settings: Settings) -> bool:
    """Return whether nothing says what to build: neither options, nor a file of the repository."""
    if ctx.params.get("dockerfile") is not None or settings.devcontainer is not None:
        return False
    if settings.value("image.dockerfile") is not None:
        return False
    folder: Path = settings.value("image.context")
    return folder.is_dir() and not any(os.path.lexists(folder / name) for name in _DOCKERFILES)


def default_source(agent: Agent) -> Source:
    """Return the image of an agent where the repository has none: that of its profile, or ours."""
    if agent.profile.image is not None:
        return Source(image=agent.profile.image, pull="missing", agent=agent)
    return Source(build=BuildRequest(_default_folder()), agent=agent)


def has_default_image(source: Source) -> bool:
    """Return whether a source is an image of ours."""
    return source.build is not None and source.build.context == _default_folder()


def announce(spec: BottleSpec, progress: Progress) -> None:
    """Say which credentials an agent lacks, and that it has an image of ours, a line each."""
    agent = spec.source.agent
    if agent is None:
        return
    if has_default_image(spec.source):
        progress.note(
            f"{'agent':<8} no Dockerfile: using bottle's own image, Debian with git and build tools"
        )
    names = agent.profile.credentials
    if names and not names.keys() & {secret.name for secret in spec.secrets}:
        logins = sorted({each.login for each in names.values() if each.login})
        name, first = next(iter(names.items()))
        wanted = f"use bottle login {logins[0]}" if logins else f"set {first.env or name}"
        progress.note(f"{'agent':<8} no login for {agent.name}; {wanted}")


def _command(ctx: click.Context, agent: Agent) -> tuple[str, ...]:
    """Return the command that starts an agent, with the user's own arguments."""
    from bot_bottle.agent.launcher import BIN, program_name

    profile = agent.profile
    program = program_name(profile) if agent.from_image else f"{BIN}/{agent.name}"
    own: tuple[str, ...] = ctx.meta.get(ARGUMENTS, ())
    prompt = ctx.params.get("prompt")
    if prompt is None:
        # alone, an agent answers these at once
        return (program, *own) if own in _ALONE else (program, *profile.command, *own)
    if ctx.obj:
        raise UsageError("--prompt and a command exclude each other", next_step="drop one")
    as_json = bool(ctx.params.get("as_json")) and not ctx.params.get("plan_only")
    words = profile.headless_json if as_json and ctx.info_name != "fan" else profile.headless
    if "{prompt}" not in words:
        raise UsageError(f"{agent.name} takes no prompt{' with --json' if as_json else ''}")
    found: list[str] = []
    for word in words:
        found += own if word == "{args}" else [prompt] if word == "{prompt}" else [word]
    return (program, *found, *(own if "{args}" not in words else ()))


def _default_folder() -> Path:
    return Path(__file__).parents[1] / "agent" / "image"
