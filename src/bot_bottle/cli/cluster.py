"""The options of commands that work on a cluster, and the way to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bot_bottle.errors import UsageError
from bot_bottle.host.sizes import require_disk_size

if TYPE_CHECKING:  # commands that are local have these options too
    from bot_bottle.bottle.replicas import Result
    from bot_bottle.bottle.spec import BottleSpec
    from bot_bottle.cluster.session import Session
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

send_secrets_option = click.option(
    "--send-secrets",
    is_flag=True,
    help="With --on: send the values of secrets, encrypted, instead of looking them up on the node.",
)


max_work_option = click.option(
    "--max-work",
    callback=lambda _ctx, _parameter, text: require_disk_size(text),
    default="1GB",
    show_default=True,
    metavar="SIZE",
    help="With --on: take back no more than this of what a bottle has committed.",
)

_ONLY_ON = ("retries", "send_secrets", "max_work")


def session(address: str) -> AbstractContextManager[Session]:
    """Connect to the cluster that --on names for a block."""
    from bot_bottle.cluster.address import parse_address  # only here: most commands are local
    from bot_bottle.cluster.session import connected

    return connected(parse_address(address))


def node(nodes: Sequence[str]) -> str:
    """Return where a bottle has run: the last of the nodes that it was started on."""
    return "-" if not nodes else nodes[0] if len(nodes) == 1 else f"retried on {nodes[-1]}"


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

    given: dict[str, Any] = ctx.params
    choices = caller.Choices(given["retries"], given["send_secrets"], given["max_work"])
    return caller.fan(parse_address(given["on"]), spec, count, progress, on_end, chosen, choices)
