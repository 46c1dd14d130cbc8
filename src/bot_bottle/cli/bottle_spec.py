"""The spec of a bottle, of what a command was given and what may be granted."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from bot_bottle.bottle.grants import requested_grants, require_grant
from bot_bottle.bottle.limits import parse_limits
from bot_bottle.bottle.spec import BottleSpec, check_slug, make_slug, parse_memory, parse_storage
from bot_bottle.cli import agent as agents
from bot_bottle.cli.settings import ask, require_build_grant, source
from bot_bottle.config.settings import Settings
from bot_bottle.errors import SpecError, UsageError
from bot_bottle.git.rules import make_rules
from bot_bottle.git.spec import GitPush
from bot_bottle.network.policy import NOTHING, Policy, parse_policy
from bot_bottle.network.ports import parse_ports
from bot_bottle.secrets.reference import Reference
from bot_bottle.structs import replace
from bot_bottle.workspace.spec import Request

_OVERRIDDEN = ("egress.", "git.")  # the keys of bottle.toml that --network overrides


def bottle_spec(ctx: click.Context, settings: Settings, *, shown: bool = False) -> BottleSpec:
    """Return the spec of one bottle. Raises UsageError and SpecError.

    Raises TrustError when bottle.toml requests more than was granted, unless the spec is only shown.
    """
    agent = agents.chosen(ctx, settings)
    if agent is not None:
        settings = agents.with_agent(ctx, settings, agent)
    where = source(ctx, settings, shown=True)
    push = _git(ctx, settings)
    urls = {each.name: each.shown_fetch for each in push.remotes}
    name = ctx.params.get("name")
    folder: Path = settings.value("image.context")
    named_after = folder.absolute() if agents.has_default_image(where) else where
    workspace = replace(_workspace(ctx, settings), remotes=urls)
    made = BottleSpec(
        source=where,
        slug=check_slug(name) if name else make_slug(named_after),
        command=settings.value("command"),
        env=tuple(settings.table("env").items()),
        secrets=_secrets(settings),
        user=settings.value("user"),
        workdir=settings.value("workdir"),
        cpus=settings.value("cpus"),
        memory_mib=parse_memory(settings.value("memory")),
        storage_mib=parse_storage(settings.value("storage")),
        backend=settings.value("backend"),
        workspace=workspace,
        egress=_cached(ctx, settings, _proxied(ctx, _egress(ctx, settings))),
        ports=parse_ports(settings.value("ports")),
        git=push,
        start=settings.devcontainer.start if settings.devcontainer else {},
        remote_user=settings.devcontainer is not None,
        accel=ctx.params.get("accel") or "auto",
        ask=bool(ctx.params.get("ask")),
        limits=parse_limits(*map(settings.value, ("limits.timeout", "limits.requests", "limits.tokens"))),
        state=agents.state_of(ctx, agent, workspace),
    )
    if not (shown or ctx.params.get("plan_only")):
        without = _OVERRIDDEN if ctx.params.get("network") else ()
        places = {each.name: each.shown for each in push.remotes}
        by_file = agents.requested(settings, agent) if agent is not None else []
        request = requested_grants(settings, without=without, remotes=places, agent=by_file)
        require_grant(request, ask, yes=ctx.params["yes"])
    if not shown:
        require_build_grant(ctx, settings)
    return made


def _secrets(settings: Settings) -> tuple[Reference, ...]:
    secrets = settings.table("secrets")
    if not secrets:
        return ()
    from bot_bottle.login.values import with_hosts

    return tuple(map(with_hosts, secrets.values()))


def _egress(ctx: click.Context, settings: Settings) -> Policy:
    """Return the network policy. `--network` overrides all of bottle.toml."""
    given = ctx.params
    match given.get("network"):
        case "none":
            for option in ("allow", "host_ports"):
                if given[option]:
                    name = "--allow" if option == "allow" else "--allow-host-port"
                    raise UsageError(f"--network none and {name} exclude each other")
            return NOTHING
        case "open":
            return parse_policy(given["allow"], open_=True, host_ports=given["host_ports"])
    allow, ports = settings.value("egress.allow"), settings.value("egress.host_ports")
    return parse_policy(allow, open_=settings.value("egress.open"), host_ports=ports)


def _git(ctx: click.Context, settings: Settings) -> GitPush:
    """Return the remotes that it may push to. `--network` overrides all of bottle.toml."""
    names: tuple[str, ...] = settings.value("git.push")
    if network := ctx.params.get("network"):
        names = ctx.params["git_push"]
        if names and network == "none":
            raise UsageError("--network none and --git-push exclude each other")
    rules = make_rules(
        settings.value("git.branches"),
        settings.value("git.paths"),
        hold=settings.value("git.hold"),
        secrets=settings.value("git.secrets"),
    )
    if not names:
        return GitPush(settings.project, (), rules)
    from bot_bottle.git.remotes import find_remotes

    return GitPush(settings.project, find_remotes(settings.project, names), rules)


def _proxied(ctx: click.Context, policy: Policy) -> Policy:
    """Return the policy, with a proxy where what is refused has to be logged or asked about."""
    use = "--ask" if ctx.params.get("ask") else "bottle learn" if ctx.info_name == "learn" else ""
    if not use:
        return policy
    if policy.open or ctx.params.get("network"):
        network = "open" if policy.open else "none"
        raise UsageError(
            f"{use} and --network {network} exclude each other",
            why=f"{'nothing' if policy.open else 'everything'} is refused",
        )
    return replace(policy, proxied=True)


def _cached(ctx: click.Context, settings: Settings, policy: Policy) -> Policy:
    """Return the policy with the caches of packages; none where the bottle reaches nothing anyway."""
    given, off = ctx.params.get("cache_packages"), ctx.params.get("no_cache_packages")
    if off and given and ctx.get_parameter_source("cache_packages") is ParameterSource.COMMANDLINE:
        raise UsageError("--cache-packages and --no-cache-packages exclude each other")
    names = () if off else settings.value("caches.packages")
    if not names:
        return policy
    from bot_bottle.network.caches import load_caches

    caches = load_caches(names)
    if policy.open:
        raise SpecError(
            "a cache of packages needs the proxy, and an open network has none",
            next_step="allow hosts instead (--allow), or use --no-cache-packages",
        )
    return policy if policy.closed else replace(policy, caches=caches)


def _workspace(ctx: click.Context, settings: Settings) -> Request:
    """Return the request for a workspace. A repository's file may only request its own folder."""
    mode, origin = settings["workspace"].value, settings["workspace"].origin
    request = Request(mode, settings.project, ctx.params["workspace_include_dirty"])
    asked_by_file = settings.file is not None and origin == str(settings.file)
    if mode != "none" and asked_by_file and request.top != settings.project.resolve():
        raise SpecError(
            f"{settings.file} requests {request.top}, which is more than its own folder",
            next_step=f"if you trust it, use --workspace {mode}",
        )
    return request
