"""The options of commands that work on a cluster, and the way to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from bot_bottle.bottle.replicas import Result
from bot_bottle.bottle.spec import BottleSpec
from bot_bottle.errors import UsageError
from bot_bottle.host.progress import Progress
from bot_bottle.pack.options import ConvertOptions

on_option = click.option(
    "--on",
    metavar="CLUSTER",
    help="A Ray cluster: ray (on this machine) or ray://HOST:PORT.",
)

retries_option = click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    metavar="N",
    help="With --on: run a bottle again, on another node, when its node dies.",
)

_ONLY_ON = ("retries",)


def reject_options(ctx: click.Context) -> None:
    """Reject options that need --on. Raises UsageError."""
    for name in _ONLY_ON:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} needs --on")


def fan(
    ctx: click.Context,
    spec: BottleSpec,
    count: int,
    progress: Progress,
    on_end: Callable[[Result], None],
    chosen: ConvertOptions,
) -> list[Result]:
    """Run a fan on the cluster that --on names."""
    from bot_bottle.cluster import caller  # only here: most fans are local
    from bot_bottle.cluster.address import parse_address
    from bot_bottle.cluster.session import connected

    given: dict[str, Any] = ctx.params
    choices = caller.Choices(given["retries"])
    with connected(parse_address(given["on"])) as session:
        return caller.fan(session, spec, count, progress, on_end, chosen, choices)
