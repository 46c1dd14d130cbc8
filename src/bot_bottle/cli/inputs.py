"""What a command was given: its options over the environment over bottle.toml over the defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bot_bottle import secret
from bot_bottle.backend.ports import parse_ports
from bot_bottle.config import file
from bot_bottle.config.settings import Setting, Settings, gather
from bot_bottle.egress.policy import NOTHING, Policy, parse_policy
from bot_bottle.errors import ImageError, SpecError, UsageError
from bot_bottle.image.engine import BuildRequest
from bot_bottle.image.oci import Platform
from bot_bottle.spec import (
    BottleSpec,
    Source,
    check_slug,
    make_slug,
    parse_build_args,
    parse_env,
    parse_memory,
)
from bot_bottle.trust import hold_granted, requested
from bot_bottle.workspace.base import Request

_BUILD_ONLY = ("path", "dockerfile", "build_args", "target", "platform", "no_cache", "pull")

# options by name: the key that each is for, and what its value becomes
_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "path": ("image.context", Path),
    "dockerfile": ("image.dockerfile", Path),
    "target": ("image.target", str),
    "build_args": ("image.args", lambda items: dict(parse_build_args(items))),
    "env": ("env", lambda items: dict(parse_env(items))),
    "secrets": ("secrets", secret.parse),
    "backend": ("backend", str),
    "workspace": ("workspace", str),
    "user": ("user", str),
    "workdir": ("workdir", str),
    "cpus": ("cpus", int),
    "memory": ("memory", str),
    "allow": ("egress.allow", tuple),
    "ports": ("ports", tuple),
}


def settings(ctx: click.Context, command: tuple[str, ...] = ()) -> Settings:
    """Give every value in force, with its origin.

    A PATH that was given is where bottle.toml is looked for; without one, it is looked for from the current
    folder upwards.
    """
    path: Path | None = ctx.params.get("path")
    found = file.find(path or Path(), upwards=path is None)
    given = {"command": Setting(command, "the command line")} if command else {}
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


def source(ctx: click.Context, settings: Settings) -> Source:
    """Make the source that options and settings name. Raises UsageError when they name two, or exclude it."""
    given = ctx.params
    image, archive = given.get("image"), given.get("archive")
    _check_platform(given["platform"])
    if image is None and archive is None:
        request = BuildRequest(
            context=settings.value("image.context"),
            dockerfile=settings.value("image.dockerfile"),
            target=settings.value("image.target"),
            build_args=tuple(settings.table("image.args").items()),
            platform=given["platform"],
            no_cache=given["no_cache"],
            pull=given["pull"],
        )
        return Source(build=request)
    sources = [name for name, value in (("--image", image), ("--archive", archive)) if value is not None]
    sources += [_name(each) for each in ctx.command.params if each.name in _BUILD_ONLY and given[each.name]]
    if len(sources) > 1:
        raise UsageError(
            f"{sources[0]} and {sources[1]} exclude each other",
            next_step="have PATH built, or take what is built already with --image or --archive",
        )
    return Source(image=image, archive=archive)


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
            next_step=f"build for {here}, or on a machine of the other kind",
        )


def spec(ctx: click.Context, settings: Settings) -> BottleSpec:
    """Make the spec of one bottle. Raises UsageError and SpecError.

    Raises TrustError when bottle.toml asks for more than was granted, unless it is only to be shown.
    """
    egress = _egress(ctx, settings)
    if not ctx.params.get("plan_only"):
        without = "egress." if ctx.params.get("network") else ""
        hold_granted(requested(settings, without=without), _ask, yes=ctx.params["yes"])
    where = source(ctx, settings)
    name = ctx.params.get("name")
    return BottleSpec(
        source=where,
        slug=check_slug(name) if name else make_slug(where),
        command=settings.value("command"),
        env=tuple(settings.table("env").items()),
        secrets=tuple(settings.table("secrets").values()),
        user=settings.value("user"),
        workdir=settings.value("workdir"),
        cpus=settings.value("cpus"),
        memory_mib=parse_memory(settings.value("memory")),
        backend=settings.value("backend"),
        workspace=_workspace(ctx, settings),
        egress=egress,
        ports=parse_ports(settings.value("ports")),
    )


def _ask(question: str) -> bool:
    """Ask whoever sits at the terminal; without one the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(question, err=True)
    return click.confirm("Grant it?", default=False, err=True)


def _egress(ctx: click.Context, settings: Settings) -> Policy:
    """Read what the bottle may reach. `--network` goes over all that bottle.toml says."""
    allow: tuple[str, ...] = settings.value("egress.allow")
    match ctx.params.get("network"):
        case "none" if ctx.params["allow"]:
            raise UsageError("--network none and --allow exclude each other")
        case "none":
            return NOTHING
        case "open":
            return parse_policy(ctx.params["allow"], open_=True)
    return parse_policy(allow, open_=settings.value("egress.open"))


def _workspace(ctx: click.Context, settings: Settings) -> Request:
    """Make the request for a workspace. A repository's file may ask for its own folder, and for no other."""
    mode, origin = settings["workspace"].value, settings["workspace"].origin
    request = Request(mode, settings.project, ctx.params["workspace_include_dirty"])
    asked_by_file = settings.file is not None and origin == str(settings.file)
    if mode != "none" and asked_by_file and request.top != settings.project.resolve():
        raise SpecError(
            f"{settings.file} asks for {request.top}, which is more than its own folder",
            next_step=f"if you trust it, say so yourself: --workspace {mode}",
        )
    return request
