"""The settings of a command: its options override the environment, bottle.toml and the defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bot_bottle.bottle.grants import requested_by_build, require_grant
from bot_bottle.cli import agent as agents
from bot_bottle.config import file
from bot_bottle.config.settings import Setting, Settings, gather
from bot_bottle.config.user import read_user_config
from bot_bottle.engine.engine import BuildRequest
from bot_bottle.engine.source import STANDARD_INPUT, Pull, Source, parse_build_args
from bot_bottle.errors import ImageError, UsageError
from bot_bottle.image.spec import Platform
from bot_bottle.secrets import reference
from bot_bottle.secrets.build import parse_build_secrets, parse_ssh
from bot_bottle.structs import replace

if TYPE_CHECKING:
    from bot_bottle.agent.choice import Agent

_OTHER_IMAGE = ("image", "archive", "dockerfile")
_OF_BUILD = ("target", "build_args", "build_secrets", "build_ssh", "no_cache")
_BUILD_ONLY = ("path", "dockerfile", "platform", "pull", *_OF_BUILD)


def _variables(items: Iterable[str]) -> dict[str, str]:
    # only here: commands that make artifacts have no bottle's variables
    from bot_bottle.bottle.spec import parse_env

    return dict(parse_env(items))


# options by name: the key of each, and the conversion of its value
_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "path": ("image.context", Path),
    "dockerfile": ("image.dockerfile", Path),
    "target": ("image.target", str),
    "build_args": ("image.args", lambda items: dict(parse_build_args(items))),
    "build_secrets": ("image.secrets", parse_build_secrets),
    "build_ssh": ("image.ssh", parse_ssh),
    "agent": ("agent.name", str),
    "env": ("env", _variables),
    "secrets": ("secrets", reference.parse),
    "backend": ("backend", str),
    "workspace": ("workspace", str),
    "user": ("user", str),
    "workdir": ("workdir", str),
    "cpus": ("cpus", int),
    "memory": ("memory", str),
    "storage": ("storage", str),
    "timeout": ("limits.timeout", str),
    "max_requests": ("limits.requests", int),
    "max_tokens": ("limits.tokens", int),
    "allow": ("egress.allow", tuple),
    "host_ports": ("egress.host_ports", tuple),
    "cache_packages": (
        "caches.packages",
        lambda items: tuple(name for item in items for name in item.split(",") if name),
    ),
    "git_push": ("git.push", tuple),
    "ports": ("ports", tuple),
}


def settings(ctx: click.Context, command: tuple[str, ...] = ()) -> Settings:
    """Return every value in force, with its origin.

    bottle.toml is searched in PATH if that is given, else from the current folder upwards. A
    devcontainer.json describes an image of its own, and is not read where another is named.
    """
    path: Path | None = ctx.params.get("path")
    own = all(ctx.params.get(name) is None for name in _OTHER_IMAGE)
    found = file.find(path or Path(), upwards=path is None, devcontainer=own)
    own_file, of_user = read_user_config()
    given = {key: Setting(value, str(own_file)) for key, value in of_user.items()}
    given |= {"command": Setting(command, "the command line")} if command else {}
    for option in ctx.command.params:
        key, convert = _KEYS.get(option.name or "", ("", str))
        value = ctx.params.get(option.name or "")
        if not key or value is None or (option.name == "path" and found):
            continue
        match ctx.get_parameter_source(option.name or ""):
            case ParameterSource.COMMANDLINE:
                given[key] = Setting(convert(value), _name(option))
            case ParameterSource.ENVIRONMENT:
                given[key] = Setting(convert(value), str(option.envvar))
    return gather(given, found, path or Path())


def _name(option: click.Parameter) -> str:
    return max(option.opts, key=len) if isinstance(option, click.Option) else str(option.name).upper()


def source(ctx: click.Context, settings: Settings, *, shown: bool = False) -> Source:
    """Make the source that options and settings name. Raises UsageError when they name two, or exclude it.

    Raises TrustError when the build gets more of this machine than was granted, unless it is only `shown`.
    """
    given = ctx.params
    image, archive = given.get("image"), given.get("archive")
    _check_platform(given["platform"])
    agent = agents.layer_of(ctx, settings)
    if image is None and archive is None:
        if not shown:
            require_build_grant(ctx, settings)
        if settings.value("image.name") is not None and given["dockerfile"] is None:
            return _named(ctx, settings, agent)
        if agent is not None and agents.lacks_dockerfile(ctx, settings):
            return agents.default_source(agent)
        request = BuildRequest(
            context=settings.value("image.context"),
            dockerfile=settings.value("image.dockerfile"),
            target=settings.value("image.target"),
            build_args=tuple(settings.table("image.args").items()),
            secrets=tuple(settings.table("image.secrets").values()),
            ssh=tuple(settings.table("image.ssh").values()),
            platform=given["platform"],
            no_cache=given["no_cache"],
            pull=given["pull"],
        )
        return Source(build=request, no_cache=given["no_cache"], agent=agent, **_added(ctx, settings))
    sources = [name for name, value in (("--image", image), ("--archive", archive)) if value is not None]
    sources += [_name(each) for each in ctx.command.params if each.name in _BUILD_ONLY and given[each.name]]
    if len(sources) > 1:
        raise UsageError(
            f"{sources[0]} and {sources[1]} exclude each other",
            next_step="build PATH, or use an existing image with --image or --archive",
        )
    if archive is None:
        return Source(image=image, agent=agent)
    found = replace(Source.of_archive(str(archive)), agent=agent)
    if found.archive == STANDARD_INPUT and (given.get("detach") or ctx.info_name == "fan"):
        raise UsageError(
            "an archive on standard input only works for one bottle in the foreground",
            next_step="write it to a file first",
        )
    return found


def require_build_grant(ctx: click.Context, settings: Settings) -> None:
    """Require that what the build gets of this machine was granted, if one is made. Raises TrustError."""
    if ctx.params.get("image") is None and ctx.params.get("archive") is None:
        require_grant(requested_by_build(settings), ask, yes=ctx.params.get("yes", False))


def _named(ctx: click.Context, settings: Settings, agent: Agent | None) -> Source:
    """Return the source of an image that the configuration names; it is pulled as docker run does."""
    added = _added(ctx, settings)
    for option in ctx.command.params:
        if option.name == "no_cache" and any(added.values()):
            continue
        if option.name in _OF_BUILD and ctx.params[option.name]:
            raise UsageError(
                f"{_name(option)} is for a build, and {settings.file} names an image",
                next_step="drop it, or give a Dockerfile with --file",
            )
    pull: Pull = "always" if ctx.params["pull"] else "missing"
    name, no_cache = settings.value("image.name"), ctx.params["no_cache"]
    return Source(image=name, pull=pull, no_cache=no_cache, agent=agent, **added)


def _added(ctx: click.Context, settings: Settings) -> dict[str, Any]:
    """Return what a devcontainer.json adds to its image; it has no say in another Dockerfile's."""
    file = settings.devcontainer
    if file is None or ctx.params["dockerfile"] is not None:
        return {}
    return {"features": file.features, "setup": file.setup}


def ask(question: str) -> bool:
    """Ask the user at the terminal; without a terminal return False."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(question, err=True)
    return click.confirm("Grant it?", default=False, err=True)


def _check_platform(text: str | None) -> None:
    if text is None:
        return
    try:
        wanted, here = Platform.parse(text), Platform.of_this_machine()
    except ImageError as error:
        raise UsageError(error.message, next_step=error.next_step) from error
    if (wanted.os, wanted.architecture) != (here.os, here.architecture):
        raise UsageError(
            f"a microVM on this machine runs {here}, not {wanted}",
            next_step=f"build for {here}, or use a machine for {wanted}",
        )
